// Who came and went, shown and read aloud for a few seconds.
import { useEffect, useState } from 'react';
import { useRoomContext } from '@livekit/components-react';
import { type Participant, RoomEvent } from 'livekit-client';

const SHOWN_MS = 3_500;

export function Toasts() {
  const room = useRoomContext();
  const [lines, setLines] = useState<{ id: number; text: string }[]>([]);
  useEffect(() => {
    let next = 0;
    const timers = new Set<ReturnType<typeof setTimeout>>();
    const tell = (what: string) => (participant: Participant) => {
      const id = next++;
      setLines((held) => [...held.slice(-2), { id, text: `${participant.name || participant.identity} ${what}` }]);
      const timer = setTimeout(() => {
        timers.delete(timer);
        setLines((held) => held.filter((line) => line.id !== id));
      }, SHOWN_MS);
      timers.add(timer);
    };
    const [came, went] = [tell('joined'), tell('left')];
    room.on(RoomEvent.ParticipantConnected, came).on(RoomEvent.ParticipantDisconnected, went);
    return () => {
      room.off(RoomEvent.ParticipantConnected, came).off(RoomEvent.ParticipantDisconnected, went);
      timers.forEach(clearTimeout);
    };
  }, [room]);
  return (
    <div className="toasts" role="status" aria-live="polite">
      {lines.map(({ id, text }) => <p key={id}>{text}</p>)}
    </div>
  );
}
