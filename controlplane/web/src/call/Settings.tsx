// Changing devices during the call.
import { useEffect, useRef, useState } from 'react';
import { useRoomContext } from '@livekit/components-react';
import { loadChoices, saveChoices } from '../choices';
import { DeviceSelect } from '../DeviceSelect';
import { explain, mayChooseSpeaker, useDevices } from '../devices';
import { CloseIcon } from '../icons';
import { IconButton } from '../parts';

const KINDS = [
  { kind: 'audioinput', label: 'Microphone', choice: 'microphoneId' },
  { kind: 'videoinput', label: 'Camera', choice: 'cameraId' },
  { kind: 'audiooutput', label: 'Speaker', choice: 'speakerId' },
] as const;

export function Settings({ onClose, onProblem }: { onClose: () => void; onProblem: (problem: string) => void }) {
  const room = useRoomContext();
  const devices = useDevices(true);
  const dialog = useRef<HTMLDialogElement>(null);
  const [active, setActive] = useState(() => Object.fromEntries(KINDS.map(({ kind }) => [kind, room.getActiveDevice(kind) ?? ''])));
  useEffect(() => {
    dialog.current?.showModal();
  }, []);

  async function choose({ kind, label, choice }: (typeof KINDS)[number], deviceId: string) {
    try {
      await room.switchActiveDevice(kind, deviceId);
      setActive((held) => ({ ...held, [kind]: deviceId }));
      saveChoices({ ...loadChoices(), [choice]: deviceId });
    } catch (error) {
      onClose();
      onProblem(kind === 'audiooutput' ? `The ${label.toLowerCase()} cannot be used.` : explain(kind === 'audioinput' ? 'microphone' : 'camera', error));
    }
  }

  return (
    <dialog ref={dialog} className="card settings" aria-labelledby="settings-title" onClose={onClose} onClick={(event) => event.target === dialog.current && onClose()}>
      <header>
        <h2 id="settings-title">Devices</h2>
        <IconButton label="Close devices" onClick={onClose}><CloseIcon size={18} /></IconButton>
      </header>
      {KINDS.filter(({ kind }) => kind !== 'audiooutput' || mayChooseSpeaker()).map((each) => (
        <DeviceSelect key={each.kind} label={each.label} kind={each.kind} devices={devices} value={active[each.kind] ?? ''} onChange={(deviceId) => void choose(each, deviceId)} />
      ))}
      <p className="hint">Keys: <kbd>M</kbd> microphone, <kbd>V</kbd> camera, <kbd>C</kbd> chat</p>
    </dialog>
  );
}
