// What a person chose before joining, remembered on this device (the room and tokens are not).

export interface Choices {
  name: string;
  microphone: boolean;
  camera: boolean;
  microphoneId: string;
  cameraId: string;
  speakerId: string;
}

const KEY = 'auralink-meet';
const DEFAULTS: Choices = { name: '', microphone: true, camera: true, microphoneId: '', cameraId: '', speakerId: '' };

export function loadChoices(): Choices {
  try {
    const held = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Record<string, unknown>;
    const known = Object.entries(DEFAULTS).map(([key, value]) => [key, typeof held[key] === typeof value ? held[key] : value]);
    return Object.fromEntries(known) as Choices;
  } catch {
    return { ...DEFAULTS };
  }
}

export function saveChoices(choices: Choices): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(choices));
  } catch {
    // Storage is off or full: nothing is remembered, and nothing else is lost.
  }
}
