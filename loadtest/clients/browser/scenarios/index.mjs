import { calls } from './call.mjs';
import { foxes } from './firefox.mjs';
import { hostile } from './hostile.mjs';
import { meets } from './meet.mjs';
import { protocols } from './protocols.mjs';
import { rooms } from './room.mjs';

export const scenarios = [...calls, ...protocols, ...foxes, ...rooms, ...hostile, ...meets];
