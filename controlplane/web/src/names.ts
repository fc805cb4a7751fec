// Names of rooms that are easy to say on a telephone, and initials of people.

const MOODS = ['amber', 'brave', 'bright', 'calm', 'clear', 'crisp', 'eager', 'fair', 'gentle', 'golden', 'happy', 'keen', 'kind', 'lively', 'mellow', 'merry', 'quick', 'quiet', 'silver', 'sunny', 'swift', 'warm', 'wise', 'young'];
const COLOURS = ['azure', 'blue', 'copper', 'coral', 'cyan', 'green', 'indigo', 'ivory', 'jade', 'lilac', 'olive', 'orange', 'pearl', 'pink', 'red', 'rose', 'ruby', 'teal', 'violet', 'white'];
const THINGS = ['bay', 'brook', 'cedar', 'cloud', 'dune', 'falcon', 'fern', 'field', 'garden', 'harbour', 'heron', 'hill', 'island', 'lake', 'maple', 'meadow', 'otter', 'pine', 'reef', 'river', 'robin', 'stone', 'valley', 'willow'];

function pick(words: string[], random: () => number): string {
  return words[Math.floor(random() * words.length)] ?? 'calm';
}

/// Such as `calm-blue-lake-417`. `random` gives numbers from 0 up to 1.
export function roomName(random: () => number = Math.random): string {
  const number = 100 + Math.floor(random() * 900);
  return `${pick(MOODS, random)}-${pick(COLOURS, random)}-${pick(THINGS, random)}-${number}`;
}

/// One or two letters for a picture without a camera.
export function initials(name: string): string {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const letters = [words[0], words.length > 1 ? words.at(-1) : undefined].map((word) => [...(word ?? '')][0] ?? '');
  return letters.join('').toUpperCase() || '?';
}

/// A colour of its own for each name, in degrees of hue.
export function hue(name: string): number {
  let sum = 0;
  for (const c of name) sum = (sum * 31 + (c.codePointAt(0) ?? 0)) % 3_600;
  return sum % 360;
}
