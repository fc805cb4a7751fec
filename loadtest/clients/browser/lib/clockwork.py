"""One processor's watch, run by machine.mjs: says each time its timer was late, as "AT LATE", in milliseconds, AT since 1970.

Python, because it is one thread that only sleeps: it runs in real time, where a runtime that waits for its own helpers would
take the processor for itself.
"""

import gc
import os
import time

EVERY = 0.005
# Less is the kernel's everyday work.
WORTH_TELLING = 0.010

gc.disable()
parent = os.getppid()
due = time.monotonic() + EVERY
# Whoever is killed cannot end what it started.
while os.getppid() == parent:
    time.sleep(EVERY)
    late = time.monotonic() - due
    if late > WORTH_TELLING:
        print(round(time.time() * 1_000), round(late * 1_000), flush=True)
    due = time.monotonic() + EVERY
