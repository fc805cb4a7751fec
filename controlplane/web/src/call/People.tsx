// Who is in the call.
import { useConnectionQualityIndicator, useIsMuted, useParticipantInfo, useParticipants } from '@livekit/components-react';
import { type Participant, Track } from 'livekit-client';
import { CloseIcon, MicrophoneIcon, MicrophoneOffIcon } from '../icons';
import { Avatar, IconButton } from '../parts';
import { Quality } from './Quality';

export function People({ onClose }: { onClose: () => void }) {
  const participants = useParticipants();
  return (
    <aside className="panel" aria-label="People">
      <header>
        <h2>People ({participants.length})</h2>
        <IconButton label="Close people" onClick={onClose}><CloseIcon size={18} /></IconButton>
      </header>
      <ul className="people">
        {participants.map((participant) => <Person key={participant.identity} participant={participant} />)}
      </ul>
    </aside>
  );
}

function Person({ participant }: { participant: Participant }) {
  const info = useParticipantInfo({ participant });
  const silent = useIsMuted({ participant, source: Track.Source.Microphone });
  const { quality } = useConnectionQualityIndicator({ participant });
  const name = info.name || participant.identity;
  return (
    <li>
      <Avatar name={name} />
      <span className="grow">{name}{participant.isLocal && <span className="dim"> (you)</span>}</span>
      <Quality quality={quality} />
      <span role="img" aria-label={silent ? 'Muted' : 'Microphone on'} className={silent ? 'muted-mark' : ''}>
        {silent ? <MicrophoneOffIcon size={18} /> : <MicrophoneIcon size={18} />}
      </span>
    </li>
  );
}
