"""The clients of `bench edge`: wrk for processor time, a paced one for latency, one for many streams at once.

All send the same request; ours read answers with the platform's own strict reader, so a wrong byte is an error.
"""

import asyncio
import json
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from bench.edge_child import USER_KEY
from bench.edge_request import PATH, body, request
from bench.edge_stage import Proxy, client_tls
from bench.servers import HOST, Missing
from wire.http1 import Body, End, ResponseHead, ResponseReader

OK = 200
AT_ONCE = 8
LATE_S = 0.01
SPARE_S = 30.0  # a client that has not ended so long after its time is stuck
_LUA = """wrk.method = "POST"
wrk.path = "{path}"
wrk.body = '{body}'
wrk.headers = {{ ["authorization"] = "Bearer {key}", ["content-type"] = "application/json" }}
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("\\nRESULT %d %d %d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Wrong(Exception):
    """A proxy answered with something else than what was timed."""


@dataclass(frozen=True, slots=True)
class Blast:
    """What wrk did: so many requests, in so many seconds, and the proxy's processor time for each."""

    requests: int
    seconds: float
    cpu_us: float

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def blast(proxy: Proxy, scratch: Path, connections: int, seconds: float, *, key: str = USER_KEY) -> Blast:
    """As many requests as `connections` kept ones carry. Raises: Missing without wrk, Wrong for a failed request."""
    if shutil.which("wrk") is None:
        raise Missing("there is no wrk here")
    script = scratch / "wrk.lua"
    script.write_text(_LUA.format(path=PATH, body=body().decode(), key=key))
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",  # it knows whole ones only
        "--timeout",
        "30s",
        "-s",
        str(script),
        proxy.url,
    ]
    before = proxy.cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + SPARE_S, check=False)
    cpu_s = proxy.cpu_s() - before
    said = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), "")
    if not said:
        raise Wrong(f"wrk failed at {proxy.name}: {done.stdout[-300:]}{done.stderr[-300:]}")
    num, took_us, errors = map(int, said.split()[1:])
    if errors or not num:
        raise Wrong(f"{proxy.name}: {errors} of {num} requests failed")
    return Blast(num, took_us / 1e6, cpu_s / num * 1e6)


class Asker(asyncio.Protocol):
    """One kept connection, one request at a time; `answered` is called with each whole body."""

    def __init__(self) -> None:
        self._reader = ResponseReader()
        self._whole: asyncio.Future[None] | None = None
        self._then: Callable[[Asker], None] | None = None
        self.seen: list[tuple[float, bytes]] = []
        self.status = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Body bytes with the moment they came."""
        now = time.monotonic()
        for event in self._reader.receive(data):
            if isinstance(event, Body):
                self.seen.append((now, event.data))
            elif isinstance(event, ResponseHead):
                self.status = event.status
            elif isinstance(event, End):
                self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits hears of it."""
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(Wrong(f"the connection closed inside an answer: {exc}"))

    def ask_then(self, raw: bytes, then: "Callable[[Asker], None]") -> None:
        """Send it; `then` hears of its whole answer, in the call that brings its end: no task, no future."""
        self.seen, self._then = [], then
        self._reader.start("POST")
        self.transport.write(raw)

    def _end(self) -> None:
        if self._whole is not None:
            self._whole.set_result(None)
        elif self._then is not None:
            if self.status != OK:
                raise Wrong(f"answered {self.status}")
            self._then(self)

    async def ask(self, raw: bytes) -> float:
        """Send it; seconds until its answer is whole. Raises: Wrong."""
        self.seen, self._whole = [], asyncio.get_running_loop().create_future()
        self._reader.start("POST")
        started = time.perf_counter()
        self.transport.write(raw)
        await self._whole
        self._whole = None
        if self.status != OK:
            raise Wrong(f"answered {self.status}: {b''.join(data for _, data in self.seen)[:300]!r}")
        return time.perf_counter() - started


async def askers(proxy: Proxy, count: int) -> list[Asker]:
    """So many open connections."""
    loop, tls = asyncio.get_running_loop(), client_tls(proxy)
    made = []
    for _ in range(count):
        _, asker = await loop.create_connection(
            Asker, HOST, proxy.port, ssl=tls, server_hostname=HOST if tls else None
        )
        made.append(asker)
    return made


@dataclass(slots=True)
class Paced:
    """Seconds of each request from when it was due, by proxy, and how late the client came to each of them."""

    took_s: dict[Proxy, list[float]]
    late_s: list[float] = field(default_factory=list)


class Lines:
    """Kept connections to one proxy; a request that finds none free waits for one, and its time goes on."""

    def __init__(self, raw: bytes, free: list[Asker]) -> None:
        self._raw = raw
        self._free = free
        self._due: deque[float] = deque()
        self._num = len(free)
        self.took_s: list[float] = []

    @property
    def is_idle(self) -> bool:
        """Every answer is here."""
        return len(self._free) == self._num

    def send(self, due: float) -> None:
        """One request that was due at `due` (perf_counter)."""
        if self._free:
            self._free.pop().ask_then(self._raw, partial(self._answered, due))
        else:
            self._due.append(due)

    def close(self) -> None:
        """Close every connection."""
        for asker in self._free:
            asker.transport.abort()

    def _answered(self, due: float, asker: Asker) -> None:
        self.took_s.append(time.perf_counter() - due)
        if self._due:
            asker.ask_then(self._raw, partial(self._answered, self._due.popleft()))
        else:
            self._free.append(asker)


async def paced(turns: Sequence[Proxy], rate: float, seconds: float, connections: int) -> Paced:
    """`rate` requests a second, in `turns` over and over, whatever the answers do; of each proxy `connections`."""
    lines = {each: Lines(request(each.port, body()), await askers(each, connections)) for each in set(turns)}
    found = Paced({proxy: each.took_s for proxy, each in lines.items()})
    began, num = time.perf_counter(), 0
    while (now := time.perf_counter() - began) < seconds:
        due = num / rate
        if due > now:
            await asyncio.sleep(due - now)
            continue
        found.late_s.append(now - due)
        lines[turns[num % len(turns)]].send(began + due)
        num += 1
        if not num % AT_ONCE:  # a client that is behind reads answers all the same
            await asyncio.sleep(0)
    while not all(each.is_idle for each in lines.values()):  # noqa: ASYNC110 - nothing is timed any more
        await asyncio.sleep(LATE_S)
    for each in lines.values():
        each.close()
    return found


@dataclass(slots=True)
class Streams:
    """What came of many streams: how many events, which were lost, how late each was, and their processor time."""

    events: int = 0
    lost: int = 0
    late_s: list[float] = field(default_factory=list)
    cpu_us: float = 0.0


async def streams(proxy: Proxy, count: int, events: int, gap_s: float) -> Streams:
    """`count` streams at once of `events` events each, begun evenly over the first gap. Raises: Wrong."""
    found = Streams()
    lines = await askers(proxy, count)
    raw = request(proxy.port, body(stream=True, max_tokens=events, temperature=gap_s))
    warm = request(proxy.port, body(stream=True, max_tokens=2, temperature=gap_s))
    await asyncio.gather(
        *(asker.ask(warm) for asker in lines)
    )  # connections that are kept, as usual ones are
    before = proxy.cpu_s()

    async def one(asker: Asker, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await asker.ask(raw)

    await asyncio.gather(*(one(asker, gap_s * n / count) for n, asker in enumerate(lines)))
    found.cpu_us = (proxy.cpu_s() - before) * 1e6
    for asker in lines:
        tally(asker.seen, events, found)
        asker.transport.abort()
    found.cpu_us /= max(1, found.events)
    return found


def tally(seen: Sequence[tuple[float, bytes]], events: int, found: Streams) -> None:
    """Each event once and in order, with the time it took from the origin's write."""
    rest, numbers = b"", []
    for at, data in seen:
        *blocks, rest = (rest + data).split(b"\n\n")
        for block in blocks:
            if block.startswith(b'data: {"n"'):
                event = json.loads(block[6:])
                if "n" not in event:  # the stream ended with an error: what it had to say is lost
                    continue
                numbers.append(event["n"])
                found.late_s.append(at - event["at"])
    found.events += len(numbers)
    found.lost += events - len(numbers) if numbers == sorted(set(numbers)) else events
