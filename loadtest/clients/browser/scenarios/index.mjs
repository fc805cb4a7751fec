import { calls } from './call.mjs';
import { codecs } from './codecs.mjs';
import { foxes } from './firefox.mjs';
import { hostile } from './hostile.mjs';
import { meets } from './meet.mjs';
import { networks } from './network.mjs';
import { paths } from './paths.mjs';
import { protocols } from './protocols.mjs';
import { rooms } from './room.mjs';
import { turns } from './turn.mjs';
import { whips } from './whip.mjs';

export const scenarios = [...calls, ...codecs, ...protocols, ...networks, ...turns, ...paths, ...foxes, ...rooms, ...hostile, ...meets, ...whips];
