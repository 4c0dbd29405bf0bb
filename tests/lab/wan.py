"""Long-distance links in user space: a pair of TUN devices each, whose packets arrive later. One process has them all.

The kernels that we meet have no netem. `python -m tests.lab.wan '[[fd, "device", fd, "device", delay_s], ...]'`, with
the namespaces' descriptors inherited; it says `ready` once the devices are there. SIMULATED distance.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import struct
import sys
from collections import deque

from tests.lab.netns import CLONE_NEWNET, LIBC

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
MAX_PACKET = 65536
MAX_IN_FLIGHT = 20_000  # packets on one link; more are lost, as on a full line


def open_tun(namespace, device):
    assert LIBC.setns(namespace, CLONE_NEWNET) == 0
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN_NO_PI))
    return fd


class Way:
    """One direction of a link: what is read of one device is written to the other, `delay_s` later, in order."""

    def __init__(self, loop, source, target, delay_s):
        self._loop, self._source, self._target, self._delay_s = loop, source, target, delay_s
        self._queue = deque()
        loop.add_reader(source, self._take)

    def _take(self):
        due = self._loop.time() + self._delay_s
        try:
            while True:
                packet = os.read(self._source, MAX_PACKET)
                if len(self._queue) < MAX_IN_FLIGHT:
                    self._queue.append((due, packet))
                    if len(self._queue) == 1:
                        self._loop.call_at(due, self._give)
        except BlockingIOError:
            pass

    def _give(self):
        now = self._loop.time() + 0.0005  # a timer may be early by half a millisecond
        while self._queue and self._queue[0][0] <= now:
            with contextlib.suppress(OSError):  # the far device is down: lost
                os.write(self._target, self._queue.popleft()[1])
        if self._queue:
            self._loop.call_at(self._queue[0][0], self._give)


async def main():
    loop = asyncio.get_running_loop()
    for near_ns, near, far_ns, far, delay_s in json.loads(sys.argv[1]):
        a, b = open_tun(near_ns, near), open_tun(far_ns, far)
        Way(loop, a, b, delay_s)
        Way(loop, b, a, delay_s)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
