"""The client of `bench edge` that counts delay: requests at random moments of a given rate, whatever the answers do.

It shares a core with the origin. By asyncio and the platform's own reader a request took 100 us of it, so at half of
what the edge takes the client was the machine's bottleneck, and what it measured was itself. This one is a bare loop
over sockets with the kernel's own clock: that of uvloop ticks in whole milliseconds, and what is due in one is a burst.
"""

import ctypes
import os
import random
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle

from bench.proxy.load import Wrong
from bench.proxy.request import body, request
from bench.proxy.stage import Proxy, beside_proxies, small_body
from bench.servers import HOST

AT_ONCE = 8  # requests between two looks at answers, of a client that is behind
READ_BYTES = 1 << 16
SPARE_S = 30.0  # answers that are not here so long after the last request was due are lost
SEED = 6
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME
_OK = b"HTTP/1.1 200 OK\r\n"
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Paced:
    """Seconds of each request from when it was due, by proxy, and how late the client came to each of them."""

    took_s: dict[Proxy, list[float]]
    late_s: list[float] = field(default_factory=list)
    busy_s: float = 0.0  # processor time of the client
    used_s: float = 0.0  # that of the first proxy
    queued_s: float = 0.0  # for how long it was ready to run, and others had its core
    lasted_s: float = 0.0


class _Spec(ctypes.Structure):
    """`struct itimerspec`: the gap between two rings, 0 here, and the moment of the first."""

    _fields_ = (
        ("gap_s", ctypes.c_long),
        ("gap_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Timer:
    """A descriptor that is readable at a moment, to the kernel's own precision (`select.epoll` waits whole ms)."""

    def __init__(self) -> None:
        self.fd: int = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "no timer")
        self._spec = _Spec()
        self._address = ctypes.byref(self._spec)

    def set(self, at_s: float) -> None:
        """Ring at `at_s`, on the clock of `perf_counter`; at once if that is over. What rang before is forgotten."""
        at_ns = int(at_s * 1e9)
        self._spec.at_s, self._spec.at_ns = divmod(at_ns, 1_000_000_000)
        _LIBC.timerfd_settime(self.fd, _ABSOLUTE, self._address, None)

    def close(self) -> None:
        """No more."""
        os.close(self.fd)


class Line:
    """One kept connection, one request at a time. The answer is known but for lines of its head."""

    def __init__(self, proxy: Proxy, raw: bytes, ending: bytes) -> None:
        self._socket = socket.create_connection((HOST, proxy.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._raw = raw
        self._ending = ending
        self._held = b""
        self.fd = self._socket.fileno()
        self.due = 0.0  # perf_counter, of the request that is under way

    def ask(self, due: float) -> None:
        """Send it."""
        self.due = due
        if self._socket.send(self._raw) != len(self._raw):
            raise Wrong("a small request did not fit into an idle connection")

    def wait(self) -> None:
        """Until there is something to take. Raises: Wrong."""
        if not select.select([self.fd], [], [], SPARE_S)[0]:
            raise Wrong(f"nothing came for {SPARE_S:.0f} s")

    def is_answered(self) -> bool:
        """Take what came; whether the answer is whole. Raises: Wrong for any other answer."""
        data = self._held + self._socket.recv(READ_BYTES)
        if data.startswith(_OK) and data.endswith(self._ending):
            self._held = b""
            return True
        is_begun = data.startswith(_OK) or _OK.startswith(data)
        if data == self._held or self._ending in data or not is_begun:
            raise Wrong(f"answered {data[:300]!r}")
        self._held = data
        return False

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class Lines:
    """Kept connections to one proxy; a request that finds none free waits for one, and its time goes on."""

    def __init__(self, proxy: Proxy, count: int) -> None:
        raw, ending = request(proxy.port, body()), b"\r\n\r\n" + small_body().encode()
        self.all = tuple(Line(proxy, raw, ending) for _ in range(count))
        self._free = list(self.all)
        self._due: deque[float] = deque()
        self.took_s: list[float] = []

    def warm(self) -> None:
        """One answer on each, one after another: what comes later comes on connections that are kept, as usual.

        One at a time, so that the proxy has no more connections to the origin than one asker needs.
        """
        for line in self.all:
            line.ask(0.0)
            line.wait()
            while not line.is_answered():
                line.wait()

    @property
    def is_idle(self) -> bool:
        """Every answer is here."""
        return len(self._free) == len(self.all)

    def send(self, due: float) -> None:
        """One request that was due at `due` (perf_counter)."""
        if self._free:
            self._free.pop().ask(due)
        else:
            self._due.append(due)

    def read(self, line: Line) -> None:
        """It has news."""
        if not line.is_answered():
            return
        self.took_s.append(time.perf_counter() - line.due)
        if self._due:
            line.ask(self._due.popleft())
        else:
            self._free.append(line)


class Pacer:
    """Every socket, and the timer of the next request."""

    def __init__(self, lines: Sequence[Lines]) -> None:
        self._timer, self._epoll = Timer(), select.epoll()
        self._epoll.register(self._timer.fd, select.EPOLLIN | select.EPOLLET)
        self._of = {line.fd: (each, line) for each in lines for line in each.all}
        for fd in self._of:
            self._epoll.register(fd, select.EPOLLIN)

    def wait(self, until: float | None) -> None:
        """Take what answers come, and return then, at `until` (perf_counter) at the latest. Raises: Wrong."""
        if until is not None:
            self._timer.set(until)
        news = self._epoll.poll(SPARE_S)
        if not news:
            raise Wrong(f"nothing came for {SPARE_S:.0f} s")
        for fd, _ in news:
            if fd != self._timer.fd:
                lines, line = self._of[fd]
                lines.read(line)

    def close(self) -> None:
        """Every connection, and itself."""
        for _, line in self._of.values():
            line.close()
        self._epoll.close()
        self._timer.close()


def paced(turns: Sequence[Proxy], rate: float, seconds: float, connections: int) -> Paced:
    """`rate` requests a second at random moments, in `turns` over and over; `connections` to each. Raises: Wrong."""
    lines = {each: Lines(each, connections) for each in dict.fromkeys(turns)}
    for each in lines.values():
        each.warm()
    found = Paced({proxy: each.took_s for proxy, each in lines.items()})
    with closing(Pacer(tuple(lines.values()))) as pacer, beside_proxies():
        proxy, began = turns[0], time.perf_counter()
        before = time.thread_time(), proxy.cpu_s(), proxy.queued_s()
        _send(pacer, cycle(lines[each] for each in turns), _moments(began, rate, seconds), found.late_s)
        after = time.thread_time(), proxy.cpu_s(), proxy.queued_s()
        found.lasted_s = time.perf_counter() - began
        found.busy_s, found.used_s, found.queued_s = (b - a for a, b in zip(before, after, strict=True))
        while not all(each.is_idle for each in lines.values()):
            pacer.wait(None)
    return found


def _moments(began: float, rate: float, seconds: float) -> Iterator[float]:
    """As those of many clients that know nothing of each other; the same ones each time."""
    gap_s, due = random.Random(SEED).expovariate, began
    while (due := due + gap_s(rate)) < began + seconds:
        yield due


def _send(pacer: Pacer, to: Iterator[Lines], moments: Iterator[float], late_s: list[float]) -> None:
    for number, due in enumerate(moments):
        while (now := time.perf_counter()) < due:
            pacer.wait(due)
        late_s.append(now - due)
        next(to).send(due)
        if not number % AT_ONCE:
            pacer.wait(due)
