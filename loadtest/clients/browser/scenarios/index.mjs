import { calls } from './call.mjs';
import { hostile } from './hostile.mjs';
import { meets } from './meet.mjs';
import { rooms } from './room.mjs';

export const scenarios = [...calls, ...rooms, ...hostile, ...meets];
