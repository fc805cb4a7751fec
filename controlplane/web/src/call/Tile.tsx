// One participant's camera or screen, with name, microphone and quality of the connection.
import { isTrackReference, type TrackReferenceOrPlaceholder, useConnectionQualityIndicator, useEnsureTrackRef, useIsMuted, useParticipantInfo, useParticipantTile, VideoTrack } from '@livekit/components-react';
import { Track } from 'livekit-client';
import { GridIcon, MicrophoneOffIcon, PinIcon, ScreenIcon } from '../icons';
import { Avatar, IconButton } from '../parts';
import { Quality } from './Quality';
import { keyOf } from './Stage';

interface TileProps {
  /// Taken from the surrounding layout when not given.
  trackRef?: TrackReferenceOrPlaceholder;
  pinned: string;
  onPin?: (key: string) => void;
  large?: boolean;
}

export function Tile({ trackRef, pinned, onPin, large = false }: TileProps) {
  const track = useEnsureTrackRef(trackRef);
  const { participant, source } = track;
  const { elementProps } = useParticipantTile({ htmlProps: {}, trackRef: track });
  const info = useParticipantInfo({ participant });
  const silent = useIsMuted({ participant, source: Track.Source.Microphone });
  const dark = useIsMuted(track);
  const { quality } = useConnectionQualityIndicator({ participant });

  const key = keyOf(track);
  const isPinned = pinned === key;
  const isScreen = source === Track.Source.ScreenShare;
  const name = info.name || info.identity || participant.identity;
  const label = `${name}${participant.isLocal ? ' (you)' : ''}${isScreen ? ', screen' : ''}`;

  return (
    <div {...elementProps} className={`${elementProps.className ?? ''} tile${large ? ' large' : ''}`} role="group" aria-label={`${label}${!isScreen && silent ? ', muted' : ''}`}>
      {isTrackReference(track) && <VideoTrack trackRef={track} aria-label={label} />}
      {dark && !isScreen && <div className="tile-avatar"><Avatar name={name} /></div>}
      <div className="tile-name">
        {isScreen ? <ScreenIcon size={16} /> : silent && <span className="muted-mark"><MicrophoneOffIcon size={16} /></span>}
        <span>{label}</span>
        <Quality quality={quality} />
      </div>
      {onPin && (
        <div className="tile-actions">
          <IconButton label={isPinned ? `Unpin ${label}` : `Pin ${label}`} onClick={() => onPin(isPinned ? '' : key)}>
            {isPinned ? <GridIcon size={18} /> : <PinIcon size={18} />}
          </IconButton>
        </div>
      )}
    </div>
  );
}
