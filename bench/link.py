"""A SIMULATED slow link: a relay in a process of its own whose bytes towards the reader pass at a set rate.

`python -m bench.link PORT TARGET_PORT`; each line of standard input is the rate from now on (bytes a second, 0: as
fast as it can), each line of standard output how many bytes passed since the line before. All connections share the
rate, as they would share a network card. Bytes go through a pipe inside the kernel, so the relay itself takes little
of the processors that it shares with what it measures.
"""

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bench.servers import HOST, Missing, free_port

PIECE_BYTES = 256 << 10  # at 0.25 GB/s one a millisecond: far less than an extent
REQUEST_BYTES = 64 << 10
F_SETPIPE_SZ = 1031  # Python 3.11 does not name it on every build
SLACK_S = 0.005  # a pause that ended late is made up for, idle time is not


class Pace:
    """Lets bytes pass at a rate, however many threads ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes_per_s, self._free_at, self._num_bytes = 0.0, 0.0, 0

    def set(self, bytes_per_s: float) -> int:
        """The rate from now on; how many bytes passed since the last call."""
        with self._lock:
            passed, self._num_bytes = self._num_bytes, 0
            self._bytes_per_s, self._free_at = bytes_per_s, 0.0
        return passed

    def due(self, num_bytes: int, now: float) -> float:
        """When the last of these bytes may be at the other end."""
        with self._lock:
            self._num_bytes += num_bytes
            if not self._bytes_per_s:
                return now
            self._free_at = max(self._free_at, now - SLACK_S) + num_bytes / self._bytes_per_s
            return self._free_at


def relay(near: socket.socket, target: tuple[str, int], pace: Pace) -> None:
    """One connection, until either side ends it."""
    with near, suppress(OSError), socket.create_connection(target) as far:
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asking = threading.Thread(target=_requests, args=(near, far), daemon=True)
        asking.start()
        with suppress(OSError):  # one side is gone, and the other is told so
            _answers(far, near, pace)
        for each in (near, far):
            _shut(each)
        asking.join()


def _requests(near: socket.socket, far: socket.socket) -> None:
    with suppress(OSError):  # the answers' side ends both
        while data := near.recv(REQUEST_BYTES):
            far.sendall(data)
    _shut(far)


def _answers(far: socket.socket, near: socket.socket, pace: Pace) -> None:
    source, sink = os.pipe()
    fcntl.fcntl(sink, F_SETPIPE_SZ, PIECE_BYTES)
    try:
        while held := os.splice(far.fileno(), sink, PIECE_BYTES):
            wait_s = pace.due(held, time.monotonic()) - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            while held:
                held -= os.splice(source, near.fileno(), held)
    finally:
        os.close(source)
        os.close(sink)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it is down already
        connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Relay until standard input ends."""
    port, target_port = (int(each) for each in sys.argv[1:])
    pace = Pace()
    listener = socket.create_server((HOST, port))
    threading.Thread(target=_accept, args=(listener, (HOST, target_port), pace), daemon=True).start()
    for line in sys.stdin:
        print(pace.set(float(line)), flush=True)


def _accept(listener: socket.socket, target: tuple[str, int], pace: Pace) -> None:
    while True:
        near, _ = listener.accept()
        threading.Thread(target=relay, args=(near, target, pace), daemon=True).start()


class Link:
    """The relay's process as its user has it."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.port = port
        self._process = process

    def set(self, bytes_per_s: float) -> int:
        """The rate from now on, 0 for none; how many bytes passed towards the reader since the last call."""
        if self._process.stdin is None or self._process.stdout is None:
            raise Missing("the relay has no pipes")
        self._process.stdin.write(f"{bytes_per_s}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def link(target_port: int) -> Iterator[Link]:
    """A relay to a port of this machine for the block, without a rate at first. Raises: Missing."""
    port = free_port()
    command = [sys.executable, "-m", "bench.link", str(port), str(target_port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        found = Link(process, port)
        found.set(0)  # it listens by now
        yield found
        if process.stdin is not None:
            process.stdin.close()


if __name__ == "__main__":
    main()
