// Messages of this call. They live as long as the call; who joins later does not see earlier ones.
import { type FormEvent, useEffect, useRef, useState } from 'react';
import { formatChatMessageLinks, type useChat } from '@livekit/components-react';
import { CloseIcon, SendIcon } from '../icons';
import { IconButton } from '../parts';

/// Messages closer together than this, in milliseconds, stand under one name.
const SAME_BREATH = 60_000;

const timeOf = (timestamp: number) => new Date(timestamp).toLocaleTimeString([], { timeStyle: 'short' });

export function Chat({ chat, onClose }: { chat: ReturnType<typeof useChat>; onClose: () => void }) {
  const { chatMessages, send, isSending } = chat;
  const [text, setText] = useState('');
  const [failed, setFailed] = useState(false);
  const list = useRef<HTMLOListElement>(null);
  useEffect(() => {
    // Newer browsers return a promise here, which is no clean-up.
    list.current?.scrollTo({ top: list.current.scrollHeight });
  }, [chatMessages.length]);

  async function submit(event: FormEvent) {
    event.preventDefault();
    const message = text.trim();
    if (!message || isSending) return;
    try {
      await send(message);
      setText('');
      setFailed(false);
    } catch {
      setFailed(true);
    }
  }

  return (
    <aside className="panel" aria-label="Chat">
      <header>
        <h2>Chat</h2>
        <IconButton label="Close chat" onClick={onClose}><CloseIcon size={18} /></IconButton>
      </header>
      <ol ref={list} className="messages" aria-live="polite" tabIndex={0} aria-label="Messages">
        {chatMessages.length === 0 && <li className="dim">Messages are seen by everyone in the call and are gone when it ends.</li>}
        {chatMessages.map((message, index) => {
          const before = chatMessages[index - 1];
          const follows = before?.from?.identity === message.from?.identity && message.timestamp - (before?.timestamp ?? 0) < SAME_BREATH;
          return (
            <li key={message.id ?? index} className={message.from?.isLocal ? 'own' : ''}>
              {!follows && (
                <p className="from">
                  <strong>{message.from?.isLocal ? 'You' : message.from?.name || message.from?.identity || 'Someone'}</strong>
                  <time dateTime={new Date(message.timestamp).toISOString()}>{timeOf(message.timestamp)}</time>
                </p>
              )}
              <p className="text">{formatChatMessageLinks(message.message)}</p>
            </li>
          );
        })}
      </ol>
      {failed && <p className="hint error" role="alert">The message was not sent.</p>}
      <form onSubmit={(event) => void submit(event)}>
        <input aria-label="Message" placeholder="Message everyone" value={text} onChange={(event) => setText(event.target.value)} maxLength={4_000} autoComplete="off" autoFocus />
        <button type="submit" className="icon-button primary" aria-label="Send" title="Send" disabled={!text.trim() || isSending}><SendIcon size={20} /></button>
      </form>
    </aside>
  );
}
