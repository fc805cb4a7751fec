// Before the call: who, where, and with which devices. Nothing here needs a device to work.
import { type FormEvent, useEffect, useId, useRef, useState } from 'react';
import { type Access, requestAccess, roomOf, TokenWanted } from '../access';
import { signalUrl } from '../address';
import { type Choices, saveChoices } from '../choices';
import { DeviceSelect } from '../DeviceSelect';
import { explain, mayChooseSpeaker, useCameraPreview, useDevices, useMicrophonePreview } from '../devices';
import { CameraIcon, CameraOffIcon, DiceIcon, MicrophoneIcon, MicrophoneOffIcon } from '../icons';
import { MicrophoneLevel } from '../MicrophoneLevel';
import { roomName } from '../names';
import { Avatar, IconButton, Logo, Notice } from '../parts';

interface PreJoinProps {
  choices: Choices;
  room: string;
  token: string;
  /// Why the last attempt failed.
  failure: string;
  onJoin: (access: Access, room: string, choices: Choices) => void;
}

export function PreJoin({ choices: remembered, room: invited, token: given, failure, onJoin }: PreJoinProps) {
  const [choices, setChoices] = useState(remembered);
  const [room, setRoom] = useState(() => roomOf(given) || invited || roomName());
  const [token, setToken] = useState(given);
  const [tokenWanted, setTokenWanted] = useState(false);
  const [problem, setProblem] = useState(failure);
  const [joining, setJoining] = useState(false);
  const change = (part: Partial<Choices>) => setChoices((held) => ({ ...held, ...part }));
  const id = useId();

  const camera = useCameraPreview(choices.camera, choices.cameraId);
  const microphone = useMicrophonePreview(choices.microphone, choices.microphoneId);
  const devices = useDevices(`${!!camera.track} ${!!microphone.track}`);

  async function join(event: FormEvent) {
    event.preventDefault();
    const name = choices.name.trim();
    setJoining(true);
    setProblem('');
    try {
      const pasted = token.trim();
      const access = pasted ? { url: signalUrl(window.location), token: pasted } : await requestAccess(room.trim(), name);
      // Devices that did not open are not tried again on joining; the buttons in the call do.
      const working = { ...choices, name, camera: choices.camera && !camera.error, microphone: choices.microphone && !microphone.error };
      saveChoices({ ...choices, name });
      onJoin(access, roomOf(access.token) || room.trim(), working);
    } catch (error) {
      setJoining(false);
      if (error instanceof TokenWanted) setTokenWanted(true);
      else setProblem(error instanceof Error ? error.message : 'The server cannot be reached.');
    }
  }

  const faults = [
    choices.camera && camera.error ? explain('camera', camera.error) : '',
    choices.microphone && microphone.error ? explain('microphone', microphone.error) : '',
  ].filter(Boolean);

  return (
    <main className="centred prejoin">
      <header><Logo /></header>
      <section className="preview" aria-label="Preview">
        <Picture camera={camera} name={choices.name} />
        <div className="preview-controls">
          <IconButton
            label={choices.microphone ? 'Turn off microphone' : 'Turn on microphone'}
            tone={choices.microphone && !microphone.error ? 'plain' : 'off'}
            onClick={() => change({ microphone: !choices.microphone })}
          >
            {choices.microphone && !microphone.error ? <MicrophoneIcon /> : <MicrophoneOffIcon />}
          </IconButton>
          <MicrophoneLevel track={microphone.track} />
          <IconButton
            label={choices.camera ? 'Turn off camera' : 'Turn on camera'}
            tone={choices.camera && !camera.error ? 'plain' : 'off'}
            onClick={() => change({ camera: !choices.camera })}
          >
            {choices.camera && !camera.error ? <CameraIcon /> : <CameraOffIcon />}
          </IconButton>
        </div>
      </section>
      <form className="card" onSubmit={join}>
        <h1>{invited ? 'Join the meeting' : 'Start a meeting'}</h1>
        {problem && <Notice tone="error">{problem}</Notice>}
        {faults.length > 0 && (
          <Notice tone="warning">
            {faults.map((fault) => <p key={fault}>{fault}</p>)}
            <p>You can join without.</p>
          </Notice>
        )}
        <div className="field">
          <label htmlFor={`${id}name`}>Your name</label>
          <input id={`${id}name`} value={choices.name} onChange={(event) => change({ name: event.target.value })} required={!token} maxLength={60} autoComplete="name" autoFocus={!choices.name} placeholder="How others see you" />
        </div>
        <div className="field">
          <label htmlFor={`${id}room`}>Room</label>
          <div className="with-button">
            <input id={`${id}room`} value={room} onChange={(event) => setRoom(event.target.value)} required maxLength={100} autoComplete="off" spellCheck={false} disabled={!!roomOf(token)} />
            {!invited && !roomOf(token) && (
              <IconButton label="Another room name" onClick={() => setRoom(roomName())}><DiceIcon size={18} /></IconButton>
            )}
          </div>
        </div>
        {(tokenWanted || token) && (
          <div className="field">
            <label htmlFor={`${id}token`}>Access token</label>
            <input id={`${id}token`} type="password" value={token} onChange={(event) => setToken(event.target.value)} required autoComplete="off" spellCheck={false} autoFocus={tokenWanted} placeholder="eyJ…" />
            {tokenWanted && <p className="hint">This server gives out no tokens by itself. Paste one that you were given.</p>}
          </div>
        )}
        <details className="devices">
          <summary>Devices</summary>
          <DeviceSelect label="Camera" kind="videoinput" devices={devices} value={choices.cameraId} onChange={(cameraId) => change({ cameraId })} />
          <DeviceSelect label="Microphone" kind="audioinput" devices={devices} value={choices.microphoneId} onChange={(microphoneId) => change({ microphoneId })} />
          {mayChooseSpeaker() && (
            <DeviceSelect label="Speaker" kind="audiooutput" devices={devices} value={choices.speakerId} onChange={(speakerId) => change({ speakerId })} />
          )}
        </details>
        <button type="submit" className="button primary wide" disabled={joining}>{joining ? 'Joining…' : 'Join now'}</button>
      </form>
    </main>
  );
}

function Picture({ camera, name }: { camera: ReturnType<typeof useCameraPreview>; name: string }) {
  const video = useRef<HTMLVideoElement>(null);
  const { track } = camera;
  useEffect(() => {
    const element = video.current;
    if (!track || !element) return;
    track.attach(element);
    return () => void track.detach(element);
  }, [track]);
  return track ? <video ref={video} className="mirrored" aria-label="Your camera" muted playsInline /> : <Avatar name={name} />;
}
