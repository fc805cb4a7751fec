// How loud the microphone is, as a row of bars: shows before joining that it hears.
import { useTrackVolume } from '@livekit/components-react';
import type { LocalAudioTrack } from 'livekit-client';

const BARS = 12;

export function MicrophoneLevel({ track }: { track: LocalAudioTrack | null }) {
  const volume = useTrackVolume(track ?? undefined);
  const level = track ? Math.min(1, volume * 1.5) : 0;
  return (
    <div className="level" role="meter" aria-label="Microphone level" aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(level * 10) * 10}>
      {Array.from({ length: BARS }, (_, index) => (
        <span key={index} className={level * BARS > index ? 'lit' : ''} />
      ))}
    </div>
  );
}
