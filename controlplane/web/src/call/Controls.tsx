// The bar of buttons below the stage, and the keys that do the same.
import { useEffect, useRef, useState } from 'react';
import { useLocalParticipantPermissions, useRoomContext, useTrackToggle } from '@livekit/components-react';
import { Track } from 'livekit-client';
import { explain, mayShareScreen } from '../devices';
import { CameraIcon, CameraOffIcon, ChatIcon, LeaveIcon, MicrophoneIcon, MicrophoneOffIcon, ScreenIcon, ScreenStopIcon, SettingsIcon } from '../icons';
import { IconButton } from '../parts';
import type { Panel } from './Call';
import { Settings } from './Settings';

interface ControlsProps {
  panel: Panel;
  unread: number;
  onPanel: (panel: Panel) => void;
  onProblem: (problem: string) => void;
}

/// Keys act unless something is being typed or chosen.
function useKeys(keys: Record<string, () => void>) {
  const held = useRef(keys);
  held.current = keys;
  useEffect(() => {
    const act = (event: KeyboardEvent) => {
      const busy = event.target instanceof HTMLElement && event.target.closest('input, select, textarea, dialog, [contenteditable]');
      if (busy || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
      held.current[event.key.toLowerCase()]?.();
    };
    window.addEventListener('keydown', act);
    return () => window.removeEventListener('keydown', act);
  }, []);
}

export function Controls({ panel, unread, onPanel, onProblem }: ControlsProps) {
  const room = useRoomContext();
  const permissions = useLocalParticipantPermissions();
  const [settings, setSettings] = useState(false);
  const microphone = useTrackToggle({ source: Track.Source.Microphone, onDeviceError: (error) => onProblem(explain('microphone', error)) });
  const camera = useTrackToggle({ source: Track.Source.Camera, onDeviceError: (error) => onProblem(explain('camera', error)) });
  const screen = useTrackToggle({
    source: Track.Source.ScreenShare,
    captureOptions: { audio: true, selfBrowserSurface: 'include' },
    onDeviceError: (error) => onProblem(explain('screen', error)),
  });

  const maySpeak = permissions?.canPublish ?? true;
  const mayWrite = permissions?.canPublishData ?? true;
  const flip = (toggle: { toggle: () => Promise<unknown> }) => {
    onProblem('');
    // Whoever reports the failure is onDeviceError above.
    toggle.toggle().catch(() => undefined);
  };
  useKeys({
    ...(maySpeak && { m: () => flip(microphone), v: () => flip(camera) }),
    ...(mayWrite && { c: () => onPanel('chat') }),
  });

  return (
    <div className="controls" role="toolbar" aria-label="Call controls">
      {maySpeak && (
        <>
          <IconButton label={microphone.enabled ? 'Mute microphone' : 'Unmute microphone'} shortcut="M" tone={microphone.enabled ? 'plain' : 'off'} disabled={microphone.pending} onClick={() => flip(microphone)}>
            {microphone.enabled ? <MicrophoneIcon /> : <MicrophoneOffIcon />}
          </IconButton>
          <IconButton label={camera.enabled ? 'Turn off camera' : 'Turn on camera'} shortcut="V" tone={camera.enabled ? 'plain' : 'off'} disabled={camera.pending} onClick={() => flip(camera)}>
            {camera.enabled ? <CameraIcon /> : <CameraOffIcon />}
          </IconButton>
          {mayShareScreen() && (
            <IconButton label={screen.enabled ? 'Stop sharing screen' : 'Share screen'} tone={screen.enabled ? 'on' : 'plain'} disabled={screen.pending} onClick={() => flip(screen)}>
              {screen.enabled ? <ScreenStopIcon /> : <ScreenIcon />}
            </IconButton>
          )}
        </>
      )}
      {mayWrite && (
        <IconButton label={unread ? `Chat, ${unread} unread` : 'Chat'} shortcut="C" aria-expanded={panel === 'chat'} tone={panel === 'chat' ? 'on' : 'plain'} badge={unread} onClick={() => onPanel('chat')}>
          <ChatIcon />
        </IconButton>
      )}
      <IconButton label="Devices" aria-haspopup="dialog" onClick={() => setSettings(true)}><SettingsIcon /></IconButton>
      <IconButton label="Leave" tone="danger" onClick={() => void room.disconnect()}><LeaveIcon /></IconButton>
      {settings && <Settings onClose={() => setSettings(false)} onProblem={onProblem} />}
    </div>
  );
}
