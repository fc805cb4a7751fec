// A labelled choice among the devices of one kind.
import { useId } from 'react';

interface DeviceSelectProps {
  label: string;
  kind: MediaDeviceKind;
  devices: MediaDeviceInfo[];
  /// Identifier of the chosen device; empty for the system's default.
  value: string;
  onChange: (deviceId: string) => void;
}

export function DeviceSelect({ label, kind, devices, value, onChange }: DeviceSelectProps) {
  const id = useId();
  // Before permission is given browsers list devices without identifiers.
  const known = devices.filter((device) => device.kind === kind && device.deviceId);
  const chosen = known.some((device) => device.deviceId === value) ? value : (known[0]?.deviceId ?? '');
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <select id={id} value={chosen} disabled={!known.length} onChange={(event) => onChange(event.target.value)}>
        {known.length ? (
          known.map((device, index) => (
            <option key={device.deviceId} value={device.deviceId}>
              {device.label || `${label} ${index + 1}`}
            </option>
          ))
        ) : (
          <option value="">None available</option>
        )}
      </select>
    </div>
  );
}
