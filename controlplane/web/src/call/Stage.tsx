// What is seen: all tiles in a grid, or one large with the others beside it.
import { useState } from 'react';
import { CarouselLayout, GridLayout, isTrackReference, type TrackReferenceOrPlaceholder, useTracks } from '@livekit/components-react';
import { RoomEvent, Track } from 'livekit-client';
import { CopyLink } from './CopyLink';
import { Tile } from './Tile';

/// A tile's own key: one participant may have a camera and a screen.
export const keyOf = (tile: TrackReferenceOrPlaceholder) => `${tile.participant.identity} ${tile.source}`;

export function Stage({ room }: { room: string }) {
  const [pinned, setPinned] = useState('');
  const tracks = useTracks(
    [
      { source: Track.Source.Camera, withPlaceholder: true },
      { source: Track.Source.ScreenShare, withPlaceholder: false },
    ],
    { updateOnlyOn: [RoomEvent.ActiveSpeakersChanged], onlySubscribed: false },
  );
  // The own screen is not shown to oneself: a picture of itself in itself helps nobody.
  const tiles = tracks.filter((tile) => !(tile.participant.isLocal && tile.source === Track.Source.ScreenShare));
  const screen = tiles.findLast((tile) => isTrackReference(tile) && tile.source === Track.Source.ScreenShare);
  const focus = tiles.find((tile) => keyOf(tile) === pinned) ?? screen;
  const alone = tracks.every((tile) => tile.participant.isLocal);

  if (focus) {
    const others = tiles.filter((tile) => tile !== focus);
    return (
      <div className={others.length ? 'focus' : 'focus single'}>
        <Tile key={keyOf(focus)} trackRef={focus} pinned={pinned} onPin={setPinned} large />
        {others.length > 0 && (
          <CarouselLayout tracks={others}>
            <Tile pinned={pinned} onPin={setPinned} />
          </CarouselLayout>
        )}
      </div>
    );
  }
  return (
    <>
      <GridLayout tracks={tiles}>
        <Tile pinned={pinned} onPin={tiles.length > 1 ? setPinned : undefined} />
      </GridLayout>
      {alone && (
        <div className="alone" role="status">
          <p>You are the only one here.</p>
          <CopyLink room={room} />
        </div>
      )}
    </>
  );
}
