"""What the lab's clients do, as coroutines that run in a place: probes on a beat, streams, loads of requests."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from itertools import pairwise

from wire.dial import DialError, Pool
from wire.timing import parse_receipt

SEATS = 256
PROBE_S = 2.0  # a probe that takes longer is lost


@dataclass
class Probe:
    """One request on a connection of its own; `began` on the shared clock, `pop` None: it failed."""

    began: float
    pop: str | None = None
    connect_s: float = 0.0
    error: str = ""


async def probe(host, port, tls, name):
    found = Probe(time.monotonic())
    pool = Pool(host, port, tls=tls, server_name=name)
    try:
        answer = await pool.request("GET", "/healthz", connect_s=PROBE_S, head_s=PROBE_S)
        await answer.read()
        found.pop, found.connect_s = answer.head.get("x-nearfield-pop"), answer.connect_s
    except DialError as error:
        found.error = str(error)
    finally:
        await pool.close()
    return found


async def probes(host, port, tls, *, for_s, every_s=0.02, name="api.lab"):
    """Probes that begin every `every_s`, whatever became of the ones before."""
    tasks, end = [], time.monotonic() + for_s
    due = time.monotonic()
    while due < end:
        tasks.append(asyncio.ensure_future(probe(host, port, tls, name)))
        due += every_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    return await asyncio.gather(*tasks)


def gap_s(found, every_s=0.02):
    """The longest span between the beginnings of two probes that came back, with none between that did.

    Less what this client itself was late with the next probe: a busy machine is no outage.
    """
    good = [n for n, each in enumerate(found) if each.pop]
    spans = [[each.began for each in found[a : b + 1]] for a, b in pairwise(good)]
    return max(began[-1] - began[0] - _late_s(began, every_s) for began in spans)


def _late_s(began, every_s):
    return max(0.0, max(after - before for before, after in pairwise(began)) - every_s)


def moves(found):
    """How often the POP changed, in the order in which the probes began."""
    pops = [each.pop for each in found if each.pop]
    return sum(a != b for a, b in pairwise(pops))


@dataclass
class Stream:
    """One event stream as its client saw it: the texts of its tokens, its headers, and how it ended."""

    texts: list = field(default_factory=list)
    times: list = field(default_factory=list)
    lags: list = field(default_factory=list)  # seconds from the node to here, of each token
    headers: dict = field(default_factory=dict)
    error: dict | None = None  # an error event, or an error's body
    cut: str = ""  # the connection broke
    replayed: list = field(default_factory=list)  # by the receipt: who did not answer to its end, and why
    done: bool = False
    began: float = 0.0
    last: float = 0.0
    ended: float = 0.0

    @property
    def via(self):
        return via_of(self.headers.get("x-nearfield-route", ""))

    def take(self, line):
        receipt = parse_receipt(line)
        if receipt is not None and receipt["hop"] == "edge":
            self.replayed = receipt["replayed"]
        if not line.startswith(b"data: "):
            return
        if line == b"data: [DONE]":
            self.done = True
            return
        value = json.loads(line[6:])
        if "error" in value:
            self.error = value["error"]
        else:
            self.texts.append(value["choices"][0]["text"])
            self.last = time.monotonic()
            self.times.append(self.last)
            self.lags.append(self.last - value["at"])


def body(model, tokens=1, pace_ms=0, stream=False, **more):
    question = {"model": model, "prompt": f"tokens={tokens} pace_ms={pace_ms}", "temperature": 0, **more}
    return json.dumps(question | ({"stream": True} if stream else {})).encode()


def headers(key, **more):
    return (("authorization", f"Bearer {key}"), ("content-type", "application/json"), *more.items())


async def stream(pool, key, asked, seen=None, **more):
    """Ask for a stream and read it to its end, whatever that is; `seen` has it as it comes, `more` are headers."""
    seen = Stream() if seen is None else seen
    seen.began = time.monotonic()
    rest = b""
    try:
        answer = await pool.request(
            "POST", "/v1/completions", headers(key, **more), asked, connect_s=5.0, head_s=30.0
        )
        seen.headers = dict(answer.head.headers)
        if answer.head.status != 200:
            seen.error = json.loads(await answer.read())["error"]
            return seen
        async for data in answer.chunks(60.0):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                seen.take(line)
    except DialError as error:
        seen.cut = str(error)
    finally:
        seen.ended = time.monotonic()
    return seen


def via_of(route):
    """The region that passed a request on, by the answer's route header."""
    return route.rpartition("; via=")[2] if "; via=" in route else None


@dataclass
class Reply:
    """One whole answer: its status (0: none came), region, seconds."""

    status: int = 0
    region: str | None = None
    took_s: float = 0.0
    replayed: bool = False
    via: str | None = None
    error: str = ""
    began: float = 0.0


async def reply(pool, key, asked):
    found = Reply(began=time.monotonic())
    try:
        answer = await pool.request(
            "POST", "/v1/completions", headers(key), asked, connect_s=5.0, head_s=30.0
        )
        text = await answer.read()
        found.status, found.region = answer.head.status, answer.head.get("x-nearfield-region")
        route = answer.head.get("x-nearfield-route") or ""
        found.replayed, found.via = "replayed=" in route, via_of(route)
        if found.status != 200:
            found.error = text.decode(errors="replace")[:200]
    except DialError as error:
        found.error = str(error)
    found.took_s = time.monotonic() - found.began
    return found


async def load(pool, key, asked, *, num, per_s):
    """`num` requests that begin `per_s` a second, whatever became of the ones before.

    At most SEATS are under way, more than a second's worth: on a machine that stands still for a moment all that came
    due would make connections at once, and their handshakes would be the next standstill.
    """
    tasks, start, seats = [], time.monotonic(), asyncio.Semaphore(SEATS)

    async def seated(began):
        async with seats:
            found = await reply(pool, key, asked)
        found.took_s, found.began = found.took_s + found.began - began, began
        return found

    for n in range(num):
        await asyncio.sleep(max(0.0, start + n / per_s - time.monotonic()))
        tasks.append(asyncio.ensure_future(seated(time.monotonic())))
    return await asyncio.gather(*tasks)
