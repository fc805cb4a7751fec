// What the page's address says: `/` is the front page; `/meet`, `/meet/ROOM` and `/meet?room=ROOM` are Meet;
// `#token=TOKEN` brings a token made elsewhere (a fragment is never sent to a server, so never logged by one).

export interface Address {
  page: 'landing' | 'meet';
  room: string;
  token: string;
}

type Place = Pick<Location, 'pathname' | 'search' | 'hash'>;

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function readAddress({ pathname, search, hash }: Place): Address {
  const [, page, ...rest] = pathname.split('/');
  const room = new URLSearchParams(search).get('room') ?? decoded(rest.join('/'));
  const token = new URLSearchParams(hash.slice(1)).get('token') ?? '';
  return { page: page === 'meet' ? 'meet' : 'landing', room: room.trim(), token: token.trim() };
}

/// A link that leads others into this room.
export function roomLink(origin: string, room: string): string {
  return `${origin}/meet?room=${encodeURIComponent(room)}`;
}

/// The signalling URL: where this page came from.
export function signalUrl({ protocol, host }: Pick<Location, 'protocol' | 'host'>): string {
  return `${protocol === 'https:' ? 'wss' : 'ws'}://${host}`;
}
