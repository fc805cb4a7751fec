import { afterEach, expect, test, vi } from 'vitest';
import { requestAccess, roomOf, TokenWanted } from './access';

function token(claims: unknown): string {
  return `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.sig`;
}

function answering(response: Response) {
  vi.stubGlobal('window', { location: new URL('http://localhost:7880/meet') });
  vi.stubGlobal('fetch', vi.fn(async () => response));
}

afterEach(() => vi.unstubAllGlobals());

test('the room of a token is shown in any script', () => {
  expect(roomOf(token({ video: { room: 'plain' } }))).toBe('plain');
  expect(roomOf(token({ video: { room: 'blå høst ☀' } }))).toBe('blå høst ☀');
});

test('an unreadable token names no room', () => {
  for (const text of ['', 'a', 'a.b.c', token({}), token({ video: { room: 7 } }), 'e30.!!!.x']) expect(roomOf(text)).toBe('');
});

test('a dev server gives access to itself', async () => {
  answering(Response.json({ token: 't' }));
  expect(await requestAccess('r', 'n')).toEqual({ url: 'ws://localhost:7880', token: 't' });
});

test('a server that mints none asks for a token', async () => {
  answering(new Response('', { status: 404 }));
  await expect(requestAccess('r', 'n')).rejects.toBeInstanceOf(TokenWanted);
});

test("a refusal is told in the server's words", async () => {
  answering(new Response('name must be 1 to 256 bytes', { status: 400 }));
  await expect(requestAccess('r', '')).rejects.toThrow('name must be 1 to 256 bytes');
});
