"""The clients of `bench edge`: wrk for processor time, one for many streams at once; `paced.py` has the third.

All send the same request; this one reads answers with the platform's own strict reader, so a wrong byte is an error.
"""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from bench.proxy.child import USER_KEY
from bench.proxy.request import PATH, body, request
from bench.proxy.stage import Proxy, client_tls
from bench.servers import HOST, Missing
from wire.http.http1 import Body, End, ResponseHead, ResponseReader

OK = 200
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
    """One kept connection, one request at a time; `ask` returns with each whole body."""

    def __init__(self) -> None:
        self._reader = ResponseReader()
        self._whole: asyncio.Future[None] | None = None
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

    def _end(self) -> None:
        if self._whole is not None:
            self._whole.set_result(None)

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
