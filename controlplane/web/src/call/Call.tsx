// One call: connects, and lays out what is seen, heard and said.
import { useCallback, useEffect, useState } from 'react';
import { LiveKitRoom, RoomAudioRenderer, StartAudio, useChat } from '@livekit/components-react';
import { type DisconnectReason, MediaDeviceFailure, Room, VideoPresets } from 'livekit-client';
import type { Access } from '../access';
import type { Choices } from '../choices';
import { explain, prefer } from '../devices';
import { CloseIcon } from '../icons';
import { IconButton, Notice } from '../parts';
import { Chat } from './Chat';
import { ConnectionBanner, SharingBanner } from './banners';
import { Controls } from './Controls';
import { Header } from './Header';
import { People } from './People';
import { Stage } from './Stage';
import { Toasts } from './Toasts';

interface CallProps {
  access: Access;
  room: string;
  choices: Choices;
  onEnd: (reason?: DisconnectReason) => void;
  onFail: (failure: string) => void;
}

export type Panel = 'chat' | 'people' | null;

function createRoom(choices: Choices): Room {
  return new Room({
    adaptiveStream: true,
    dynacast: true,
    audioCaptureDefaults: { deviceId: prefer(choices.microphoneId) },
    videoCaptureDefaults: { deviceId: prefer(choices.cameraId), resolution: VideoPresets.h720.resolution },
    audioOutput: choices.speakerId ? { deviceId: choices.speakerId } : undefined,
  });
}

export function Call({ access, room: name, choices, onEnd, onFail }: CallProps) {
  const [room] = useState(() => createRoom(choices));
  const [problem, setProblem] = useState('');

  // A connection that never came to be has no end of its own.
  const onError = useCallback(
    (error: Error) => {
      if (room.state === 'disconnected') onFail(`Joining failed: ${error.message}`);
    },
    [room, onFail],
  );
  const onDeviceFailure = useCallback((failure?: MediaDeviceFailure, kind?: MediaDeviceKind) => {
    const names = { [MediaDeviceFailure.PermissionDenied]: 'NotAllowedError', [MediaDeviceFailure.NotFound]: 'NotFoundError', [MediaDeviceFailure.DeviceInUse]: 'NotReadableError', [MediaDeviceFailure.Other]: '' };
    const error = Object.assign(new Error(), { name: failure ? names[failure] : '' });
    setProblem(explain(kind === 'videoinput' ? 'camera' : 'microphone', error));
  }, []);

  return (
    <LiveKitRoom
      room={room}
      serverUrl={access.url}
      token={access.token}
      audio={choices.microphone}
      video={choices.camera}
      onDisconnected={onEnd}
      onError={onError}
      onMediaDeviceFailure={onDeviceFailure}
      data-lk-theme="default"
    >
      <Layout name={name} problem={problem} onProblem={setProblem} />
      <RoomAudioRenderer />
    </LiveKitRoom>
  );
}

interface LayoutProps {
  name: string;
  problem: string;
  onProblem: (problem: string) => void;
}

function Layout({ name, problem, onProblem }: LayoutProps) {
  const [panel, setPanel] = useState<Panel>(null);
  const chat = useChat();
  const unread = useUnread(chat.chatMessages.length, panel === 'chat');
  const toggle = useCallback((wanted: Panel) => setPanel((open) => (open === wanted ? null : wanted)), []);

  return (
    <div className="call">
      <Header name={name} panel={panel} onPanel={toggle} />
      <div className="banners">
        <ConnectionBanner />
        <SharingBanner />
        {problem && (
          <Notice tone="error">
            <span>{problem}</span>
            <IconButton label="Dismiss" onClick={() => onProblem('')}><CloseIcon size={16} /></IconButton>
          </Notice>
        )}
        <StartAudio label="Turn on sound" className="button primary" />
      </div>
      <div className="middle">
        <main className="stage" aria-label="Participants"><Stage room={name} /></main>
        {panel === 'chat' && <Chat chat={chat} onClose={() => setPanel(null)} />}
        {panel === 'people' && <People onClose={() => setPanel(null)} />}
      </div>
      <Controls panel={panel} unread={unread} onPanel={toggle} onProblem={onProblem} />
      <Toasts />
    </div>
  );
}

/// Messages that arrived while the chat was closed.
function useUnread(total: number, open: boolean): number {
  const [read, setRead] = useState(0);
  useEffect(() => {
    if (open) setRead(total);
  }, [open, total]);
  return open ? 0 : total - read;
}
