"""Another program in a Link session: joins at a tempo, answers lines with its tempo and beat."""

import asyncio
import sys
import time

from aalink import Link


async def joined() -> Link:
    return Link(float(sys.argv[1]))


link = asyncio.run(joined())
link.quantum = 4
link.enabled = True
for line in sys.stdin:
    if line.strip():
        link.tempo = float(line)
    print(time.perf_counter(), link.tempo, link.beat, link.num_peers, flush=True)
link.enabled = False
