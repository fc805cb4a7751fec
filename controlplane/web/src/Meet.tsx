// Meet: from choosing devices through the call to the page after it.
import { useCallback, useState } from 'react';
import { type DisconnectReason, setLogLevel } from 'livekit-client';
import { setLogLevel as setComponentsLogLevel } from '@livekit/components-react';
import '@livekit/components-styles';
import type { Access } from './access';
import { Call } from './call/Call';
import { type Choices, loadChoices } from './choices';
import { Left } from './Left';
import { PreJoin } from './prejoin/PreJoin';

// Connection URLs contain the token; below this level nothing logs them.
setLogLevel('warn');
setComponentsLogLevel('warn');

type Stage = { at: 'prejoin'; failure: string } | { at: 'call' } | { at: 'left'; reason: DisconnectReason | undefined };

interface Entry {
  access: Access;
  room: string;
  choices: Choices;
}

export default function Meet({ room, token }: { room: string; token: string }) {
  const [stage, setStage] = useState<Stage>({ at: 'prejoin', failure: '' });
  const [entry, setEntry] = useState<Entry | null>(null);

  const end = useCallback((reason?: DisconnectReason) => setStage({ at: 'left', reason }), []);
  const fail = useCallback((failure: string) => setStage({ at: 'prejoin', failure }), []);

  function join(access: Access, joined: string, choices: Choices) {
    // The address leads back into this room, by reload or by being shared.
    window.history.replaceState(null, '', `/meet?room=${encodeURIComponent(joined)}`);
    document.title = `${joined} · AuraLink`;
    setEntry({ access, room: joined, choices });
    setStage({ at: 'call' });
  }

  if (stage.at === 'call' && entry) return <Call {...entry} onEnd={end} onFail={fail} />;
  if (stage.at === 'left' && entry) {
    return <Left room={entry.room} reason={stage.reason} onRejoin={() => setStage({ at: 'call' })} onBack={() => fail('')} />;
  }
  return (
    <PreJoin
      choices={loadChoices()}
      room={entry?.room ?? room}
      token={token}
      failure={stage.at === 'prejoin' ? stage.failure : ''}
      onJoin={join}
    />
  );
}
