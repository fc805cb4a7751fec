// Copies the room's link, and says so for a moment.
import { useEffect, useState } from 'react';
import { roomLink } from '../address';
import { CheckIcon, LinkIcon } from '../icons';

export function CopyLink({ room }: { room: string }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 2_000);
    return () => clearTimeout(timer);
  }, [copied]);

  async function copy() {
    const link = roomLink(window.location.origin, room);
    try {
      await navigator.clipboard.writeText(link);
      setCopied(true);
    } catch {
      // Pages that are not secure have no clipboard: the person copies by hand.
      window.prompt('Copy this link', link);
    }
  }

  return (
    <button type="button" className="button small" aria-label="Copy link" title="Copy link" onClick={() => void copy()}>
      {copied ? <CheckIcon size={18} /> : <LinkIcon size={18} />}
      <span className="wide-only" aria-live="polite">{copied ? 'Copied' : 'Copy link'}</span>
    </button>
  );
}
