// Where the server is, and tokens for it.
import crypto from 'k6/crypto';
import encoding from 'k6/encoding';

export const HTTP_URL = __ENV.AURALINK_URL || 'http://127.0.0.1:7880';
export const WS_URL = HTTP_URL.replace(/^http/, 'ws');
const KEY = __ENV.LIVEKIT_API_KEY || 'devkey';
const SECRET = __ENV.LIVEKIT_API_SECRET || 'secret';
const LIFETIME_S = 3600;

/// A number from the environment.
export function setting(name, otherwise) {
  const value = Number(__ENV[name] || otherwise);
  if (!(value > 0)) throw new Error(`${name} must be a positive number`);
  return value;
}

/// An access token (HS256) with these grants.
export function mint(identity, video) {
  const now = Math.floor(Date.now() / 1000);
  const part = (value) => encoding.b64encode(JSON.stringify(value), 'rawurl');
  const claims = { iss: KEY, sub: identity, name: identity, nbf: now - 5, exp: now + LIFETIME_S, video };
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${signed}.${crypto.hmac('sha256', SECRET, signed, 'base64rawurl')}`;
}
