import { expect, test } from 'vitest';
import { hue, initials, roomName } from './names';

test('room names can be typed and told apart', () => {
  expect(roomName(() => 0)).toBe('amber-azure-bay-100');
  expect(roomName(() => 0.999_999)).toBe('young-white-willow-999');
  const names = new Set(Array.from({ length: 200 }, () => roomName()));
  expect(names.size).toBeGreaterThan(190);
  for (const name of names) expect(name).toMatch(/^[a-z]+-[a-z]+-[a-z]+-\d{3}$/);
});

test('initials are the first and the last word', () => {
  expect(initials('ada king lovelace')).toBe('AL');
  expect(initials(' øyvind ')).toBe('Ø');
  expect(initials('😀 x')).toBe('😀X');
  expect(initials('')).toBe('?');
});

test('a name keeps its hue', () => {
  expect(hue('Ann')).toBe(hue('Ann'));
  expect(hue('Ann')).toBeLessThan(360);
});
