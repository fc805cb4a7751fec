import { calls } from './call.mjs';
import { codecs } from './codecs.mjs';
import { hostile } from './hostile.mjs';
import { meets } from './meet.mjs';
import { rooms } from './room.mjs';

export const scenarios = [...calls, ...codecs, ...rooms, ...hostile, ...meets];
