// Lines above the stage: the state of the connection, and that the own screen is seen by others.
import { useConnectionState, useLocalParticipant } from '@livekit/components-react';
import { ConnectionState } from 'livekit-client';
import { Notice } from '../parts';

export function ConnectionBanner() {
  switch (useConnectionState()) {
    case ConnectionState.Connecting:
      return <Notice>Connecting…</Notice>;
    case ConnectionState.Reconnecting:
    case ConnectionState.SignalReconnecting:
      return <Notice tone="warning">Connection lost. Reconnecting…</Notice>;
    default:
      return null;
  }
}

export function SharingBanner() {
  const { localParticipant, isScreenShareEnabled } = useLocalParticipant();
  if (!isScreenShareEnabled) return null;
  return (
    <Notice>
      <span>Everyone sees your screen.</span>
      <button type="button" className="button small" onClick={() => void localParticipant.setScreenShareEnabled(false)}>Stop sharing</button>
    </Notice>
  );
}
