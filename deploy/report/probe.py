"""The report's client: asks one region over HTTPS, and sets what the next request will find."""

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from deploy.report.arms import Start
from deploy.report.reading import StreamReading
from deploy.report.sample import Clock, Sample, failed, of_answer, of_stream
from wire.dial import Answer, DialError, Pool
from wire.http.http1 import Headers

REQUEST_S = 120.0  # one request, a cold start from another region included
ADMIN_S = 60.0  # cooling waits for running requests, so it may take a while
ROW_S = 60.0  # for a prewarmed model to be held by a live process, and for its row to say so
POLL_S = 0.05
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ERROR_CHARS = 300
COOL_TO: Mapping[Start, str] = {Start.ORIGIN: "origin", Start.REGION: "region", Start.HOST: "host"}


class NotSetError(Exception):
    """The start state could not be set; the message says why."""


PATHS = {"generate": "/v1/chat/completions", "embed": "/v1/embeddings", "rerank": "/v1/rerank"}


class StatusError(Exception):
    """The platform's status could not be read: wrong address, wrong key, or it is not up."""


@dataclass(frozen=True, slots=True)
class Question:
    """What every request of the report asks; ``kind`` is the model's."""

    model: str
    kind: Literal["generate", "embed", "rerank"]
    prompt: str
    max_tokens: int

    @property
    def path(self) -> str:
        """Where it is asked."""
        return PATHS[self.kind]

    @property
    def is_streamed(self) -> bool:
        """Whether its answer comes in pieces."""
        return self.kind == "generate"

    def body(self) -> bytes:
        """The request's JSON; greedy, so that every request does the same work."""
        if self.kind == "embed":
            return json.dumps({"model": self.model, "input": [self.prompt]}).encode()
        if self.kind == "rerank":
            return json.dumps(
                {"model": self.model, "query": self.prompt, "documents": [self.prompt]}
            ).encode()
        messages = [{"role": "user", "content": self.prompt}]
        options = {"max_tokens": self.max_tokens, "temperature": 0, "stream": True}
        usage = {"stream_options": {"include_usage": True}}
        return json.dumps({"model": self.model, "messages": messages, **options, **usage}).encode()


def pool_of(url: str, tls: ssl.SSLContext, via: tuple[str, int] | None = None) -> Pool:
    """A connection pool to an https URL's host and port, or to the address `via` in its name."""
    name, port = address_of(url)
    host, port = via or (name, port)
    return Pool(host, port, tls=tls, server_name=name)


def address_of(url: str) -> tuple[str, int]:
    """The host and port of an https URL."""
    address = urlsplit(url)
    return address.hostname or "", address.port or 443


def _bearer(key: str) -> Headers:
    return (("authorization", f"Bearer {key}"), ("content-type", "application/json"))


class Admin:
    """The edge's admin routes."""

    def __init__(self, url: str, tls: ssl.SSLContext, key: str) -> None:
        self._pool = pool_of(url, tls)
        self._headers = _bearer(key)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()

    async def status(self) -> Mapping[str, Any]:
        """All regions' rows, as the edge has them. Raises StatusError."""
        try:
            answer = await self._pool.request("GET", "/nearfield/status", self._headers, head_s=ADMIN_S)
            raw = await answer.read(MAX_ANSWER_BYTES)
            value = json.loads(raw) if answer.head.status == 200 else None
        except (DialError, ValueError) as error:
            raise StatusError(f"the platform's status cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise StatusError(f"the platform's status cannot be read: {_reason(answer.head.status, raw)}")
        return value

    async def prepare(self, region: str, model: str, start: Start) -> None:
        """Make the region's next request of the model find it in `start`. Raises NotSetError."""
        if start is Start.WARM:
            return
        await self._steer(region, "cool", {"model": model, "to": COOL_TO.get(start, "host")})
        if start is Start.RESIDENT:
            await self._until(region, model, resident=False)  # an old row would look like success
            await self._steer(region, "prewarm", {"model": model})
            await self._until(region, model, resident=True)

    async def _steer(self, region: str, verb: str, order: Mapping[str, str]) -> None:
        path = f"/nearfield/regions/{region}/{verb}"
        try:
            answer = await self._pool.request(
                "POST", path, self._headers, json.dumps(order).encode(), head_s=ADMIN_S
            )
            raw = await answer.read(MAX_ANSWER_BYTES)
        except DialError as error:
            raise NotSetError(f"{verb} in {region}: {error}") from error
        if answer.head.status >= 300:
            raise NotSetError(f"{verb} in {region}: {_reason(answer.head.status, raw)}")

    async def _until(self, region: str, model: str, *, resident: bool) -> None:
        """Wait until the region says that a live process holds the model, or that none does."""
        try:
            async with asyncio.timeout(ROW_S):
                while True:
                    tier = tier_of(await self.status(), region, model)
                    if (tier == "resident") is resident:
                        return
                    await asyncio.sleep(POLL_S)
        except (TimeoutError, StatusError) as error:
            state = "resident" if resident else "let go"
            raise NotSetError(f"{model} in {region} is not {state} within {ROW_S:.0f} s") from error


def tier_of(status: Mapping[str, Any], region: str, model: str) -> str | None:
    """Where the region says the model's bytes are, or None if it says nothing."""
    row = model_row(status, region, model)
    tier = row.get("tier")
    return tier if isinstance(tier, str) else None


def model_row(status: Mapping[str, Any], region: str, model: str) -> Mapping[str, Any]:
    """What one region's row says of the model; empty if it says nothing."""
    body = region_body(status, region)
    row = body.get("models", {}).get(model) if isinstance(body.get("models"), dict) else None
    return row if isinstance(row, dict) else {}


def region_body(status: Mapping[str, Any], region: str) -> Mapping[str, Any]:
    """One region's row body; empty if the edge has none."""
    regions = status.get("regions")
    entry = regions.get(region) if isinstance(regions, dict) else None
    body = entry.get("body") if isinstance(entry, dict) else None
    return body if isinstance(body, dict) else {}


@dataclass(frozen=True, slots=True)
class Sent:
    """When a request was due and when it was sent, in seconds of one clock."""

    due_s: float
    sent_s: float

    def clock(self, ended_s: float) -> Clock:
        """Its clock, which started when it was due."""
        return Clock(self.due_s, ended_s, self.sent_s - self.due_s)


class Probe:
    """Asks one region, at its own address, one request at a time."""

    def __init__(
        self,
        region: str,
        url: str,
        tls: ssl.SSLContext,
        key: str,
        question: Question,
        via: tuple[str, int] | None = None,
    ) -> None:
        self.region = region
        self._pool = pool_of(url, tls, via)
        self._headers = (*_bearer(key), ("x-nearfield-wait", "60"))
        self._question = question

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    async def ask(self, wanted: Start) -> Sample:
        """One request on a connection that is up; whatever goes wrong is a sample that failed, never an exception."""
        return await self._sampled(wanted, None)

    async def ask_at(self, wanted: Start, due_s: float) -> Sample:
        """One request at ``due_s`` of `time.perf_counter`, whatever became of others. Call `warm_up` before."""
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        return await self._sampled(wanted, due_s)

    async def warm_up(self, num: int) -> None:
        """Have ``num`` connections ready, so that no handshake is on a request's clock. Failures show later."""
        await asyncio.gather(*(self._connect() for _ in range(num)), return_exceptions=True)

    async def _sampled(self, wanted: Start, due_s: float | None) -> Sample:
        try:
            async with asyncio.timeout(REQUEST_S):
                if due_s is None:
                    await self._connect()
                return await self._asked(wanted, due_s)
        except TimeoutError:
            return failed(self.region, wanted, f"no answer within {REQUEST_S:.0f} s")
        except (DialError, ValueError, RecursionError) as error:  # the latter: JSON nested too deeply
            return failed(self.region, wanted, str(error)[:MAX_ERROR_CHARS])

    async def _connect(self) -> None:
        answer = await self._pool.request("GET", "/healthz")
        await answer.read()

    async def _asked(self, wanted: Start, due_s: float | None) -> Sample:
        body = self._question.body()
        sent_s = time.perf_counter()
        sent = Sent(min(sent_s, due_s or sent_s), sent_s)  # a loop's clock may end a sleep a moment early
        answer = await self._pool.request("POST", self._question.path, self._headers, body, head_s=REQUEST_S)
        async with answer:
            if answer.head.status != 200:
                raw = await answer.read(MAX_ANSWER_BYTES)
                return failed(self.region, wanted, _reason(answer.head.status, raw))
            read = self._stream if self._question.is_streamed else self._whole
            return await read(wanted, answer, sent)

    async def _stream(self, wanted: Start, answer: Answer, sent: Sent) -> Sample:
        reading = StreamReading()
        async for data in answer.chunks(REQUEST_S):
            reading.receive(data, time.perf_counter())
        clock = sent.clock(time.perf_counter())
        return of_stream(self.region, wanted, dict(answer.head.headers), reading, clock)

    async def _whole(self, wanted: Start, answer: Answer, sent: Sent) -> Sample:
        raw = await answer.read(MAX_ANSWER_BYTES, REQUEST_S)
        clock = sent.clock(time.perf_counter())
        value = json.loads(raw)
        usage = value.get("usage") if isinstance(value, dict) else None
        headers = dict(answer.head.headers)
        return of_answer(self.region, wanted, headers, usage if isinstance(usage, dict) else {}, clock)


def _reason(status: int, raw: bytes) -> str:
    """An error answer in one line."""
    try:
        error = json.loads(raw)["error"]
        return f"{status} {error['code']}: {error['message']}"[:MAX_ERROR_CHARS]
    except (ValueError, KeyError, TypeError):
        return f"{status}, without an error object"
