// The room's name, who is there, and the link that brings others in.
import { useParticipants } from '@livekit/components-react';
import { PeopleIcon } from '../icons';
import { CopyLink } from './CopyLink';
import type { Panel } from './Call';

interface HeaderProps {
  name: string;
  panel: Panel;
  onPanel: (panel: Panel) => void;
}

export function Header({ name, panel, onPanel }: HeaderProps) {
  const count = useParticipants().length;
  return (
    <header className="call-header">
      <img src="/favicon.svg" alt="" width="26" height="26" />
      <h1>{name}</h1>
      <CopyLink room={name} />
      <button type="button" className="button small" aria-pressed={panel === 'people'} aria-label={`${count} ${count === 1 ? 'participant' : 'participants'}`} title="People" onClick={() => onPanel('people')}>
        <PeopleIcon size={18} /> {count}
      </button>
    </header>
  );
}
