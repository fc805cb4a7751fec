// After the call: why it ended, and the ways on.
import { DisconnectReason } from 'livekit-client';
import { Logo } from './parts';

function tell(reason: DisconnectReason | undefined): [title: string, text: string] {
  switch (reason) {
    case DisconnectReason.CLIENT_INITIATED:
      return ['You left the meeting', 'The others can go on without you.'];
    case DisconnectReason.DUPLICATE_IDENTITY:
      return ['You joined from elsewhere', 'The same access is in use in another window or on another device.'];
    case DisconnectReason.PARTICIPANT_REMOVED:
      return ['You were removed', 'Whoever runs this meeting ended your part in it.'];
    case DisconnectReason.ROOM_DELETED:
    case DisconnectReason.ROOM_CLOSED:
      return ['The meeting has ended', 'It was closed for everyone.'];
    case DisconnectReason.SERVER_SHUTDOWN:
      return ['The server stopped', 'It may be back in a moment.'];
    default:
      return ['The connection was lost', 'The server could not be reached again.'];
  }
}

interface LeftProps {
  room: string;
  reason: DisconnectReason | undefined;
  onRejoin: () => void;
  onBack: () => void;
}

export function Left({ room, reason, onRejoin, onBack }: LeftProps) {
  const [title, text] = tell(reason);
  return (
    <main className="centred">
      <section className="card left">
        <Logo />
        <div role="status">
          <h1>{title}</h1>
          <p className="dim">{text}</p>
        </div>
        <p className="room-name">{room}</p>
        <button type="button" className="button primary wide" onClick={onRejoin} autoFocus>Rejoin</button>
        <button type="button" className="button wide" onClick={onBack}>Change name or devices</button>
        <a className="fine" href="/meet">New meeting</a>
      </section>
    </main>
  );
}
