import { expect, test } from 'vitest';
import { readAddress, roomLink, signalUrl } from './address';

const at = (url: string) => readAddress(new URL(url, 'http://localhost:7880'));

test('the front page is not Meet', () => {
  expect(at('/')).toEqual({ page: 'landing', room: '', token: '' });
});

test('a room comes from the path or the query, the query first', () => {
  expect(at('/meet').room).toBe('');
  expect(at('/meet/blue%20sky').room).toBe('blue sky');
  expect(at('/meet?room=a%2Fb+c').room).toBe('a/b c');
  expect(at('/meet/one?room=two').room).toBe('two');
});

test('a broken escape in a path is taken as it is', () => {
  expect(at('/meet/100%').room).toBe('100%');
});

test('a token is read from the fragment alone', () => {
  expect(at('/meet#token=a.b.c').token).toBe('a.b.c');
  expect(at('/meet?token=a.b.c').token).toBe('');
});

test('a link leads back to its room', () => {
  for (const room of ['calm-blue-lake', 'a/b c', '100%', 'ß&?=#']) {
    expect(at(roomLink('http://localhost:7880', room)).room).toBe(room);
  }
});

test('signalling goes where the page came from, as secure as the page', () => {
  expect(signalUrl(new URL('https://meet.example:444/meet'))).toBe('wss://meet.example:444');
  expect(signalUrl(new URL('http://localhost:7880/'))).toBe('ws://localhost:7880');
});
