// How good a participant's connection is, as three bars; unknown shows nothing.
import { ConnectionQuality } from 'livekit-client';

const BARS: Partial<Record<ConnectionQuality, [lit: number, text: string]>> = {
  [ConnectionQuality.Excellent]: [3, 'Connection excellent'],
  [ConnectionQuality.Good]: [2, 'Connection good'],
  [ConnectionQuality.Poor]: [1, 'Connection poor'],
  [ConnectionQuality.Lost]: [0, 'Connection lost'],
};

export function Quality({ quality }: { quality: ConnectionQuality }) {
  const bars = BARS[quality];
  if (!bars) return null;
  const [lit, text] = bars;
  return (
    <span className={`quality lit-${lit}`} role="img" aria-label={text} title={text}>
      <i /><i /><i />
    </span>
  );
}
