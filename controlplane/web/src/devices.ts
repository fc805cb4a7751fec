// Cameras, microphones and speakers: which there are, a preview of one, and what went wrong in plain words.
import { useCallback, useEffect, useState } from 'react';
import { createLocalAudioTrack, createLocalVideoTrack, type LocalAudioTrack, type LocalVideoTrack, VideoPresets } from 'livekit-client';

export type Capture = 'microphone' | 'camera';

/// Browsers hide devices from pages that others on the network could have changed.
export const mayCapture = () => typeof navigator.mediaDevices?.getUserMedia === 'function';
export const mayShareScreen = () => typeof navigator.mediaDevices?.getDisplayMedia === 'function';
export const mayChooseSpeaker = () => 'setSinkId' in HTMLMediaElement.prototype;

/// Why there is no sound or picture, and what helps.
export function explain(capture: Capture | 'screen', error: unknown): string {
  const name = error instanceof Error ? error.name : '';
  if (!mayCapture()) return `Your browser offers the ${capture} only on https:// or localhost.`;
  switch (name) {
    case 'NotAllowedError':
    case 'SecurityError':
      return capture === 'screen'
        ? 'The screen was not shared.'
        : `Access to the ${capture} is blocked. Allow it in the browser’s address bar.`;
    case 'NotFoundError':
    case 'OverconstrainedError':
      return `No ${capture} was found.`;
    case 'NotReadableError':
    case 'AbortError':
      return `The ${capture} cannot be used; another program may have it.`;
    default:
      return `The ${capture} did not start${error instanceof Error && error.message ? `: ${error.message}` : '.'}`;
  }
}

/// The devices of the machine; asked again when one is plugged, or when `permitted` changes and names become visible.
export function useDevices(permitted: unknown): MediaDeviceInfo[] {
  const [devices, setDevices] = useState<MediaDeviceInfo[]>([]);
  const refresh = useCallback(() => {
    navigator.mediaDevices?.enumerateDevices().then(setDevices, () => setDevices([]));
  }, []);
  useEffect(() => {
    refresh();
    navigator.mediaDevices?.addEventListener('devicechange', refresh);
    return () => navigator.mediaDevices?.removeEventListener('devicechange', refresh);
  }, [refresh, permitted]);
  return devices;
}

/// A remembered device is preferred, not demanded: it may have been unplugged since.
export const prefer = (deviceId: string) => (deviceId ? { ideal: deviceId } : undefined);

export interface Preview<T> {
  track: T | null;
  error: unknown;
}

function usePreview<T extends LocalAudioTrack | LocalVideoTrack>(open: (deviceId: string) => Promise<T>, wanted: boolean, deviceId: string): Preview<T> {
  const [preview, setPreview] = useState<Preview<T>>({ track: null, error: null });
  useEffect(() => {
    setPreview({ track: null, error: null });
    if (!wanted) return;
    let ended = false;
    const opening = open(deviceId);
    opening.then(
      (track) => !ended && setPreview({ track, error: null }),
      (error: unknown) => !ended && setPreview({ track: null, error }),
    );
    return () => {
      ended = true;
      opening.then((track) => track.stop(), () => undefined);
    };
  }, [open, wanted, deviceId]);
  return preview;
}

const openCamera = (deviceId: string) => createLocalVideoTrack({ deviceId: prefer(deviceId), resolution: VideoPresets.h720.resolution });
const openMicrophone = (deviceId: string) => createLocalAudioTrack({ deviceId: prefer(deviceId) });

export const useCameraPreview = (wanted: boolean, deviceId: string) => usePreview(openCamera, wanted, deviceId);
export const useMicrophonePreview = (wanted: boolean, deviceId: string) => usePreview(openMicrophone, wanted, deviceId);
