// How the page gets in: a token minted by the server in its dev profile, or one that the person brings.
import { signalUrl } from './address';

export interface Access {
  url: string;
  token: string;
}

/// The server mints no tokens: it is not a dev server.
export class TokenWanted extends Error {
  constructor() {
    super('This server asks for an access token.');
  }
}

export async function requestAccess(room: string, name: string): Promise<Access> {
  const response = await fetch('/meet/token', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ room, name }),
  });
  if (response.status === 404) throw new TokenWanted();
  if (!response.ok) throw new Error((await response.text()) || `The server answered ${response.status}.`);
  const answer = (await response.json()) as { url?: string; token: string };
  return { url: answer.url ?? signalUrl(window.location), token: answer.token };
}

/// The room a token is for, to show it; empty if it cannot be read. The server alone judges tokens.
export function roomOf(token: string): string {
  try {
    const part = token.split('.')[1] ?? '';
    const bytes = Uint8Array.from(atob(part.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as { video?: { room?: unknown } };
    return typeof claims.video?.room === 'string' ? claims.video.room : '';
  } catch {
    return '';
  }
}
