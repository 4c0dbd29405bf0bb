"""A request passed on to an external engine, and its answer made ours. A client that leaves closes it there at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from inference.api.reply import STREAM_HEADERS, Outlet, Reply
from inference.api.stay.entered import Stay
from inference.outside.answers import Counts, counts_of, error_in, failed, refusal_of, renamed
from inference.outside.context import check_context
from inference.outside.events import DONE, Event, EventReader, StreamError, is_last
from inference.outside.kinds import CHAT, COMPLETIONS, SALTED
from inference.outside.parameters import check_parameters
from inference.usage.entry import Counts as Used
from inference.workers.engines.calls import worker_lost
from inference.workers.entry.resident import OutsideModel
from wire.dial import DialError
from wire.dialect import error_body, error_event
from wire.figures.gen_ai import OPERATIONS
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from inference.api.stay.visit import Visit
    from inference.api.text.template import TemplateChild
    from inference.outside.door import Door
    from inference.workers.host import Host
    from wire.dial import Answer

MAX_ERROR_BYTES = 64 * 1024
JSON_HEADERS = {"content-type": "application/json"}
SALT = "cache_salt"
END = b"data: [DONE]\n\n"
WITH_USAGE = frozenset({CHAT, COMPLETIONS})
"""Routes whose streams say their token counts only when they are asked to."""


class PassedReply(Reply):
    """One request to the external engine of a resident model."""

    def __init__(
        self, host: Host, visit: Visit, revision_id: str | None, path: str, body: dict[str, Any],
        child: TemplateChild,
    ) -> None:  # fmt: skip
        super().__init__()
        self._visit, self._model = visit, str(body.get("model"))
        self._host = host
        self._stay = Stay(host, visit, revision_id, self._model, OPERATIONS.get(path, ""))
        self._path, self._body, self._child = path, body, child
        self._counts = Counts()
        self._sent_at = 0.0
        self._is_whole = False

    def refusal_headers(self) -> dict[str, str]:
        """See `Reply`."""
        return {"x-request-id": self._visit.request_id}

    def refused(self, refusal: Refusal) -> None:
        """See `Reply`."""
        self._host.figures.refusals.note(refusal, self._visit.request_id, self._path, self._model)

    def left(self) -> None:
        """See `Reply`."""
        self._host.figures.client_gone(stream=self._streams)

    async def refuse(self, outlet: Outlet, refusal: Refusal) -> None:
        """See `Reply`: in the words of the route's clients."""
        headers = {**self.refusal_headers(), **dict(refusal.headers())}
        await outlet.whole(refusal.status, headers, error_body(self._path, refusal))

    async def answer(self, outlet: Outlet) -> None:
        """See `Reply`."""
        with self._stay.inside(OutsideModel) as model:
            door = model.door
            self._check(door)
            async with door.entrance.inside(self._visit.tenant, self._visit.weight, 0, 1) as has_waited:
                if has_waited:
                    self._visit.phases.mark("queue")
                await check_context(self._path, self._body, model, self._child)
                self._visit.phases.mark("tokenize")
                with door.inside(), self._stay.passed_on(self._used):
                    await self._pass_on(outlet, door)

    def _check(self, door: Door) -> None:
        """Refuse what this engine's operator says that it does not do. Raises Refusal."""
        if self._path not in door.made.routes:
            message = (
                f"{self._model} runs on the engine {door.made.name!r}, which does not serve {self._path}."
            )
            raise Refusal(400, "unsupported_route", message)
        check_parameters(self._path, self._body, door.made)
        if type(self._body.get("stream", False)) is not bool and self._body.get("stream") is not None:
            raise Refusal(400, "invalid_type", "'stream' must be true or false.", param="stream")

    @property
    def _streams(self) -> bool:
        return self._body.get("stream") is True

    @property
    def _wants_usage(self) -> bool:
        """`continuous_usage_stats` asks for it too, where nothing else is said."""
        options = self._body.get("stream_options")
        if not isinstance(options, dict):
            return False
        said = options.get("include_usage")
        return (options.get("continuous_usage_stats") if said is None else said) is True

    def _asked(self, door: Door) -> dict[str, Any]:
        """The body as the engine gets it: its own name of the model, and token counts in any case."""
        changed = self._body | {"model": door.served}
        if self._path in SALTED.get(door.made.kind, ()) and SALT not in door.made.refuse:
            own = self._body.get(SALT)
            if own is None or (isinstance(own, str) and own):  # anything else is the engine's to refuse
                changed[SALT] = door.salt(self._visit.tenant, own)
        if self._streams and self._path in WITH_USAGE and "stream_options" not in door.made.refuse:
            options = self._body.get("stream_options")
            changed["stream_options"] = (options if isinstance(options, dict) else {}) | {
                "include_usage": True
            }
        return changed

    def _used(self) -> Used:
        """What the engine has said so far that it used."""
        counts = self._counts
        return Used(counts.prompt_tokens, counts.completion_tokens, counts.cached_tokens)

    async def _pass_on(self, outlet: Outlet, door: Door) -> None:
        self._sent_at = door.now()
        try:
            answer = await door.post(
                self._path, self._asked(door), door.made.answer_deadline_s, self._visit.passes
            )
            door.heard()
            async with answer:
                if answer.head.status != 200:
                    body = await answer.read(MAX_ERROR_BYTES, door.made.stall_s)
                    raise refusal_of(answer.head.status, body, self._model, door.folder)
                _check_type(answer, streams=self._streams)
                await (self._stream if self._streams else self._whole)(outlet, answer, door)
        except DialError as error:
            raise self._lost(error, door) from error

    def _lost(self, error: DialError, door: Door) -> Refusal:
        """The engine did not answer: it ended, which is worth another try, or it takes too long."""
        if not error.timed_out:
            return worker_lost()
        door.waited_in_vain(self._sent_at)
        message = f"The engine of {self._model} sent nothing for too long. Ask for less, or try again."
        return Refusal(504, "engine_timeout", message, "server_error", retry_after_s=1)

    async def _whole(self, outlet: Outlet, answer: Answer, door: Door) -> None:
        value = _object(await self._read(answer, door))
        door.heard()
        if (refusal := error_in(value, self._model, door.folder)) is not None:
            raise refusal
        self._visit.note_first(self._waited_ms(door))
        self._counts = counts_of(value) or self._counts
        self._stay.used(self._used())
        body = _written(renamed(value, self._model))
        self._visit.phases.mark("decode")
        counted = self._visit.counted(self._counts.prompt_tokens, self._counts.completion_tokens)
        headers = {**JSON_HEADERS, **counted}
        await outlet.whole(200, headers, body)

    async def _read(self, answer: Answer, door: Door) -> bytes:
        """The whole body. Raises Refusal: it is longer than is read; DialError."""
        pieces, left_bytes = [], door.made.max_answer_bytes
        while data := await answer.next(door.made.answer_deadline_s):
            pieces.append(data)
            left_bytes -= len(data)
            if left_bytes < 0:
                raise failed(f"The engine of {self._model} answered more than is read.")
        return b"".join(pieces)

    async def _stream(self, outlet: Outlet, answer: Answer, door: Door) -> None:
        """Nothing is sent before the first event, so that failures until then keep their status."""
        closing = END if self._path in WITH_USAGE else b""
        try:
            async for events in self._events(answer, door):
                if not outlet.started:
                    self._visit.note_first(self._waited_ms(door))
                    await outlet.start(200, {**STREAM_HEADERS, **self._visit.headers()})
                await outlet.write(events)
            if not outlet.started:
                raise failed(f"The engine of {self._model} ended its answer before it began.")
            self._stay.used(self._used())
        except (Refusal, DialError) as error:
            refusal = error if isinstance(error, Refusal) else self._lost(error, door)
            if not outlet.started:
                raise refusal from error
            self._visit.error = refusal.code
            closing = error_event(self._path, refusal.body())
        self._visit.phases.mark("decode")
        counts = self._counts
        receipt = self._visit.receipt(counts.prompt_tokens, counts.completion_tokens, counts.cached_tokens)
        await outlet.write(closing + receipt, last=True)

    async def _events(self, answer: Answer, door: Door) -> AsyncIterator[bytes]:
        """What the client gets, as it comes. Raises Refusal, DialError."""
        reader, ended = EventReader(door.made.max_answer_bytes), False
        try:
            while not ended:
                data = await answer.next(door.made.stall_s)
                door.heard()
                self._sent_at = door.now()
                found = reader.feed(data) if data else reader.end()
                ended = not data or any(event.data == DONE for event in found)
                self._is_whole = self._is_whole or (ended and bool(data))
                for event in found:
                    if event.data != DONE and (written := self._event(event, door)):
                        yield written
            if not self._is_whole:
                raise worker_lost()
        except StreamError as cause:
            raise failed(f"The engine of {self._model} broke its stream: {cause}.") from cause

    def _event(self, event: Event, door: Door) -> bytes:
        """One event under our name; b"" for counts that the client did not ask for. Raises Refusal."""
        value = _object(event.data.encode())
        if (refusal := error_in(value, self._model, door.folder)) is not None:
            raise refusal
        self._is_whole = self._is_whole or is_last(value)
        if (counts := counts_of(value)) is not None:
            self._counts = _later(self._counts, counts)
            if self._path in WITH_USAGE and not self._wants_usage:
                if value.get("choices") == []:
                    return b""
                del value["usage"]
        name = f"event: {event.name}\n" if event.name else ""
        return b"%bdata: %b\n\n" % (name.encode(), _written(renamed(value, self._model)))

    def _waited_ms(self, door: Door) -> float:
        """What lies between our question and its first words: its own queue and its prompt."""
        return max(0.0, (door.heard_at - self._sent_at) * 1000)


def _check_type(answer: Answer, *, streams: bool) -> None:
    """Raises Refusal: the engine answers in another form than it was asked for."""
    kind = (answer.head.get("content-type") or "").partition(";")[0].strip().lower()
    wanted = "text/event-stream" if streams else "application/json"
    if kind != wanted:
        raise failed(f"The engine answered with {kind[:64] or 'no type'} where {wanted} was asked for.")


def _object(data: bytes) -> dict[str, Any]:
    """Raises Refusal: what the engine sent is not JSON, or not an object."""
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as cause:
        raise failed("The engine answered something that is not JSON.") from cause
    if not isinstance(value, dict):
        raise failed("The engine answered JSON that is no object.")
    return value


def _no_constant(name: str) -> NoReturn:
    """Python reads NaN and Infinity, which are no JSON: our user's client would fail at them."""
    raise ValueError(f"{name} is not a JSON number")


def _written(value: dict[str, Any]) -> bytes:
    """The value as JSON. Half a surrogate pair, which some servers cut a text at, stays escaped: it is no UTF-8."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def _later(before: Counts, now: Counts) -> Counts:
    """Counts of a stream grow, and some events have a part of them only."""
    return Counts(
        now.prompt_tokens or before.prompt_tokens,
        max(now.completion_tokens, before.completion_tokens),
        now.cached_tokens or before.cached_tokens,
    )
