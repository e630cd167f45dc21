"""A process that works now and then, as somebody else's does on a shared machine.

Run by path it is that process: ``neighbour.py SEED``. It works for a while and sleeps for a while,
each exponential with a mean of ``MEAN_S``: half a core in the mean, on no core in particular, in
bursts that may begin and end within a pair's rounds.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

MEAN_S = 0.3
PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def neighbour(seed: int) -> Iterator[None]:
    """One that works until the block ends."""
    process = subprocess.Popen([sys.executable, __file__, str(seed)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def work(seed: int) -> None:
    # It must not go on beside later gates when the one that it belongs to is killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    chance = random.Random(seed)
    while True:
        end = time.perf_counter() + chance.expovariate(1 / MEAN_S)
        while time.perf_counter() < end:
            pass
        time.sleep(chance.expovariate(1 / MEAN_S))


if __name__ == "__main__":
    work(int(sys.argv[1]))
