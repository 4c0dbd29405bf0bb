"""Sending poison over HTTP beside healthy requests, and judging what comes back."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import httpx2 as httpx

from tests.inference.poison import CHAT, TEXT, Poison
from tests.inference.test_node_serving import AUTH
from wire.dialect import is_anthropic

MAX_AT_ONCE = 8
"""Poison under way together: enough to share steps with each other and with the healthy."""
PAUSE_S = 0.05
"""Between two rounds of one healthy request: they are there to be hurt, not to fill the machine."""
KINDS = {"invalid_request_error", "rate_limit_error"}


async def told(http: httpx.AsyncClient, url: str, poison: Poison) -> str | None:
    """What is wrong with the answer to one poison; None if it is a whole answer or one clear refusal."""
    headers = {"content-type": poison.content_type, **dict(poison.headers)}
    answer = await http.post(url + poison.path, content=poison.body, headers=headers)
    if answer.status_code == 200:
        fault = "it was answered" if poison.must_fail else _whole(answer)
    elif 400 <= answer.status_code < 500:
        fault = refused(answer.content, anthropic=is_anthropic(poison.path))
    else:
        fault = "it is no status for a caller's fault"
    return fault and f"{poison.name}: {fault}: {answer.status_code} {answer.text[:300]}"


def _whole(answer: httpx.Response) -> str | None:
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return None if isinstance(answer.json(), dict) else "it is no object"
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    if events[-1] == "[DONE]":
        return None
    return refused(events[-1].encode(), anthropic=False)


def refused(body: bytes, *, anthropic: bool) -> str | None:
    """What is wrong with a refusal's body."""
    try:
        value = json.loads(body)
        error = value["error"]
    except (ValueError, TypeError, KeyError):
        return "it has no error object"
    if set(error) != {"message", "type", "param", "code"} or (set(value) != {"error"}) is not anthropic:
        return "it is not the shape of an error"
    if not (isinstance(error["message"], str) and error["message"] and isinstance(error["code"], str)):
        return "it does not say what is wrong"
    return None if anthropic or error["type"] in KINDS else "it is not the caller's fault"


@dataclass
class Healthy:
    """Requests that mean well, sent over and over; `texts` are their answers alone, `faults` what differed since."""

    http: httpx.AsyncClient
    url: str
    bodies: list[tuple[str, dict[str, Any]]]
    texts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    num_rounds: int = 0

    async def ask(self, path: str, body: dict[str, Any]) -> str:
        """The answer's text, streamed; one choice's after the other's."""
        answer = await self.http.post(self.url + path, json=body | {"stream": True})
        lines = answer.text.splitlines()
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        if answer.status_code != 200 or "data: [DONE]" not in lines:
            return f"no answer: {answer.status_code} {answer.text[:300]}"
        choices = sorted((choice for event in events for choice in event["choices"]), key=itemgetter("index"))
        return "".join(one.get("text") or one.get("delta", {}).get("content") or "" for one in choices)

    @contextlib.asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """They run for as long as the block does, and once more after it."""
        self.texts = [await self.ask(*each) for each in self.bodies]
        assert not [text for text in self.texts if not text or text.startswith("no answer")], self.texts
        over = asyncio.Event()
        running = [
            asyncio.create_task(self._over_and_over(number, over)) for number in range(len(self.bodies))
        ]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*running)

    async def _over_and_over(self, number: int, over: asyncio.Event) -> None:
        is_last = False
        while not is_last:
            is_last = over.is_set()
            if (text := await self.ask(*self.bodies[number])) != self.texts[number]:
                self.faults.append(f"{self.bodies[number]}: {text!r} and not {self.texts[number]!r}")
            self.num_rounds += 1
            await asyncio.sleep(PAUSE_S)


class Client:
    """One request over a connection of its own, that can be left at any moment."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        heads = {"host": "x", "content-length": str(len(data)), "content-type": "application/json", **AUTH}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in heads.items()), "", ""]
        self._bytes = "\r\n".join(lines).encode() + data

    async def send(self, url: str, part: float = 1) -> None:
        """Connect, and send so much of it."""
        self._reader, self._writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        self._writer.write(self._bytes[: int(len(self._bytes) * part)])
        await self._writer.drain()

    async def hear(self, num_events: int) -> None:
        """Read so many events of the answer, or its end: tokens of half a character make none."""
        heard = b""
        while heard.count(b"\n\n") < num_events and not heard.endswith(b"\r\n0\r\n\r\n"):
            heard += await self._reader.readuntil(b"\n")

    def leave(self) -> None:
        """Without a word."""
        self._writer.transport.abort()


async def leave(url: str, path: str, body: dict[str, Any], part: float, num_events: int = 0) -> None:
    """Send that part of a request, hear so many events of its answer, and go away."""
    client = Client(path, body)
    await client.send(url, part)
    await client.hear(num_events)
    client.leave()


def moments(model: str) -> Iterator[tuple[str, dict[str, Any], float, int]]:
    """Each moment at which a client may leave: `leave`'s arguments after the first."""
    prompt = {"model": model, "prompt": "the dog", "max_tokens": 60, "ignore_eos": True}
    for part in (0, 0.3, 0.6, 0.99, 1):
        yield TEXT, prompt, part, 0
    for num_events in (1, 2, 9):
        yield TEXT, prompt | {"stream": True, "n": 1 + num_events % 4}, 1, num_events
    yield TEXT, prompt | {"prompt": [5] * 130}, 1, 0
    yield CHAT, {"model": model, "messages": [{"role": "user", "content": "x " * 100_000}]}, 1, 0
    yield CHAT, {"model": model, "messages": [{"role": "user", "content": "hi"}]} | {"stream": True}, 1, 1
    yield TEXT, {"model": model, "prompt": "x", "guided_regex": "[a-z]{40}"}, 1, 0
    yield TEXT, {"model": model, "prompt": "x", "guided_regex": "(a|b?|c*){1,50}" * 40}, 1, 0


async def poisoned(http: httpx.AsyncClient, url: str, poisons: Iterable[Poison]) -> list[str]:
    """What is wrong with any answer, MAX_AT_ONCE poisons at a time."""
    turns, faults = asyncio.Semaphore(MAX_AT_ONCE), []

    async def one(poison: Poison) -> None:
        async with turns:
            if (fault := await told(http, url, poison)) is not None:
                faults.append(fault)

    await asyncio.gather(*map(one, poisons))
    return faults
