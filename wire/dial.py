"""Requests to an upstream over pooled connections; answers stream, and giving one up closes it at once."""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import islice

from wire.http.http1 import Headers
from wire.http.limits import DEFAULT_LIMITS
from wire.secured.ticket import Ticket
from wire.upstreams.answer import Answer
from wire.upstreams.brief import Brief
from wire.upstreams.connect import Attempt, Target
from wire.upstreams.failure import DialError, Phase
from wire.upstreams.making import Making
from wire.upstreams.outgoing import Outgoing
from wire.upstreams.resolve import Name
from wire.upstreams.upstream import Upstream

__all__ = ["Answer", "DialError", "Phase", "Pool"]

# Who opens gives up sooner than who serves: a request is never sent on a connection that is about to be closed.
MARGIN_S = 5.0  # a standstill of either process, and the way
IDLE_S = DEFAULT_LIMITS.idle_s - MARGIN_S
UNUSED_S = (
    DEFAULT_LIMITS.head_s - MARGIN_S
)  # of one that never had a request: it has the time of a head alone
FRESH_S = 1.0  # a streamed body cannot be sent twice, so it only rides a connection idle for less
TIDY_S = 1.0  # between two looks for them
MAX_IDLE = 1024  # in practice as many as were busy at once in the last IDLE_S: the others are let go
RECENT_S = 0.25  # a connection that was free so short a time ago carries short answers
NUM_LOOKED_AT = 8  # of those in use: what a thousand of them do is not worth a walk
STALE_S = 2.0  # a close that crossed our request shows within a round trip; later it is a dead upstream


class Pool:
    """Keep-alive connections to one address; any number of requests at once, at most `max_idle` kept idle."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        max_idle: int = MAX_IDLE,
        path: str | None = None,
        lost_s: float | None = None,
    ) -> None:
        """With `path` the address is that Unix socket; `host` and `port` are then only what `Host` says.

        With `lost_s` a connection ends when the peer's kernel is silent for so long (`wire/upstreams/keepalive.py`).
        """
        self.host = host
        self.port = port
        shown = (server_name or host) if tls is not None else None
        self._making = Making(Target(Name(host, port), port, path, tls, shown, lost_s, Ticket()), self)
        self._max_idle = max_idle
        self._idle: deque[Upstream] = deque()
        self._waiting = self._making.waiting  # looked at for each answer: two steps less
        self.brief = Brief()  # requests of lanes, which have none made for them yet
        self._busy: set[Upstream] = set()
        self._closed = False
        self._tidied_at = 0.0  # loop time
        self.on_use: Callable[[], None] | None = None  # called once, at the next use, and forgotten
        self.host_header = (f"[{host}]" if ":" in host else host) + f":{port}"

    @property
    def num_idle(self) -> int:
        """Connections that wait for a request."""
        return sum(upstream.is_usable() for upstream in self._idle)

    @property
    def num_busy(self) -> int:
        """Connections with a request on them."""
        return len(self._busy)

    def in_use(self) -> "tuple[Attempt | Upstream, ...]":
        """All that are in use, those that are being made first."""
        return (*self._making.attempts, *self._busy)

    def busy(self) -> tuple[Upstream, ...]:
        """Those with a request on them."""
        return tuple(self._busy)

    def idle(self) -> tuple[Upstream, ...]:
        """Those that wait for a request."""
        return tuple(self._idle)

    async def request(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes | AsyncIterator[bytes] | None = None,
        *,
        length: int | None = None,
        connect_s: float = 2.0,
        head_s: float = 30.0,
        quiet_s: float | None = None,
        expect_continue: bool = False,
        framed: bool = False,
        meanwhile: Callable[[], None] | None = None,
        sent: Upstream | None = None,
    ) -> Answer:
        """Send a request and return its answer once the head is here.

        `headers` go as they are; `host` is added where missing, framing is added from `body` (an iterator
        without `length` is chunked). With `expect_continue` the body is pulled only once the upstream asks.
        `framed` takes no answer that only the connection's end would end, since a cut one would look whole.
        `head_s` counts from the last byte sent, `quiet_s` also from each interim answer (1xx). A request on a kept
        connection that turns out closed is sent once more. `meanwhile` is called when the request was sent, before its
        answer is waited for: what can wait until then costs the answer nothing. `sent`: a connection on which this
        very request was sent already.

        Raises DialError. Whatever ends the call early (also cancellation) closes the connection at once.
        """
        outgoing = Outgoing(
            method, target, headers, body, length, self.host_header, expect_continue=expect_continue
        )
        started = asyncio.get_running_loop().time() if sent is None else sent.lent_at
        within = head_s, quiet_s
        idle_s = FRESH_S if outgoing.streams and not outgoing.expects else IDLE_S
        upstream = sent or self.kept(asyncio.get_running_loop().time(), idle_s)
        waited_s = 0.0
        if upstream is None:
            began, started = time.perf_counter(), 0.0  # uvloop's own clock ticks in whole ms
            upstream = await self._making.soonest(connect_s)
            waited_s, started = time.perf_counter() - began, asyncio.get_running_loop().time()
        is_new = not upstream.idle_since
        try:
            return await self._exchange(
                upstream, outgoing, within, waited_s, meanwhile, framed=framed, begun=sent is not None
            )
        except DialError as error:
            late = asyncio.get_running_loop().time() - started > STALE_S
            crossed = not (error.received or error.timed_out or late or upstream.given_up)
            if is_new or not crossed or not outgoing.replayable:
                raise
        began = time.perf_counter()
        upstream = await self._making.connect(connect_s)
        waited_s = time.perf_counter() - began
        return await self._exchange(upstream, outgoing, within, waited_s, meanwhile, framed=framed)

    def abort(self) -> None:
        """Cut every connection, also those in use: their requests fail at once. The pool stays usable."""
        for upstream in (*self._idle, *self._busy):
            upstream.abort()
        self._idle.clear()
        self._busy.clear()

    async def close(self) -> None:
        """Close every connection, also those in use."""
        self._closed = True
        self.abort()
        await self._making.close()

    def take_back(self, upstream: Upstream) -> None:
        """(Answer) a completely read answer: keep its connection if another request may follow."""
        if upstream.reusable:
            self.keep(upstream, upstream.now())
        else:
            self._busy.discard(upstream)
            upstream.abort()

    def keep(self, upstream: Upstream, now: float) -> None:
        """A connection whose answer is over `now` (loop time), for another request.

        One that is given back unused keeps its `idle_since`: its server has not heard of it either.
        """
        self._busy.discard(upstream)
        is_over = upstream.closed  # since it was given to somebody who gives it back unused
        if is_over or self._closed or (len(self._idle) >= self._max_idle and not self._waiting):
            upstream.abort()
            return
        if not upstream.received:  # never used: so much of its time is over from the start
            now = upstream.opened_at - (IDLE_S - UNUSED_S)
        upstream.idle_since = now
        if (self.brief.waiting or self._waiting) and self._give(upstream):
            return
        self._idle.append(upstream)
        if now >= self._tidied_at + TIDY_S:
            self._tidy(now)

    def _tidy(self, now: float) -> None:
        """Let go of those that nobody used for long, here, where no request waits for it."""
        self._tidied_at = now
        over = [each for each in self._idle if each.closed or now - each.idle_since > IDLE_S]
        for each in over:
            self._idle.remove(each)
            each.abort()

    def kept(self, now: float, idle_s: float = IDLE_S) -> Upstream | None:
        """The connection used last, if alive and idle for less than `idle_s` at `now`; the dead ones are let go.

        It is for one request that can be sent again; the caller begins it, and keeps or forgets it.
        """
        while self._idle:
            upstream = self._idle.pop()
            idles_s = now - upstream.idle_since
            if idles_s > IDLE_S or not upstream.is_usable():
                upstream.abort()
            elif idles_s <= idle_s:
                self._busy.add(upstream)
                if self.on_use is not None:
                    self._tell_use()
                return upstream
            else:
                self._idle.append(upstream)
                return None
        return None

    def frees_soon(self, now: float) -> bool:
        """Whether at least half of those in use, of some of them, were free a moment before `now` (loop time)."""
        some = tuple(islice(self._busy, NUM_LOOKED_AT))
        return 2 * sum(now - each.idle_since < RECENT_S for each in some) >= len(some) > 0

    def forget(self, upstream: Upstream) -> None:
        """(Answer) a connection that was closed."""
        self._busy.discard(upstream)

    def prepare(self, num: int) -> None:
        """Make connections until so many are idle or on their way. One that fails is missed by nobody."""
        self._tidy(asyncio.get_running_loop().time())
        self._making.spare(num - len(self._idle) - len(self._making))

    def use(self, upstream: Upstream | None) -> None:
        """(Making) this one is in use, or one that is still to be made."""
        if upstream is not None:
            self._busy.add(upstream)
        self._tell_use()

    def _give(self, upstream: Upstream) -> bool:
        """To one that waits for it and for no other; else to the one that has waited the longest, if any does."""
        if self.brief:
            self._busy.add(upstream)
            self._tell_use()
            return self.brief.give(upstream)
        return self._making.give(upstream)

    def _tell_use(self) -> None:
        tell, self.on_use = self.on_use, None
        if tell is not None:
            tell()

    async def _exchange(
        self,
        upstream: Upstream,
        outgoing: Outgoing,
        within: tuple[float, float | None],
        connect_s: float,
        meanwhile: Callable[[], None] | None,
        *,
        framed: bool,
        begun: bool = False,
    ) -> Answer:
        head_s, quiet_s = within
        try:
            if not begun:
                upstream.begin(outgoing.method, outgoing.first, whole=not outgoing.more)
            if outgoing.more or upstream.is_behind:
                upstream.allow(head_s)
                await upstream.caught_up()
            if outgoing.more:
                await outgoing.send_rest(upstream, head_s)
            if meanwhile is not None:
                meanwhile()
            head = await upstream.answer(head_s, quiet_s)
            if framed and upstream.ends_by_close:
                raise DialError("head", upstream.received, "the answer does not say where it ends")  # noqa: TRY301
        except BaseException:
            upstream.abort()
            self._busy.discard(upstream)
            raise
        return Answer(self, upstream, head, connect_s)
