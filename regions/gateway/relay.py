"""The node's answer on its way back, as bytes: whole events only, and one clear end whatever happens.

An answer is committed by its first event. Before that a lost node is a status code, so that the edge may ask
another region; after it, one error event. Nothing is ever sent to a node twice that may have started it.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

from regions.gateway.trip import SSE, said_of, said_refusal
from wire.address import split_address
from wire.dial import DialError, Pool
from wire.eventcut import EventCut
from wire.http.heads import request_head_bytes
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from regions.gateway.trip import Trip
    from wire.dial import Answer
    from wire.http.http1 import Headers, RequestHead
    from wire.upstreams.upstream import Upstream

CONNECT_S: Final = 2.0  # within a region; a node that takes longer is not there
BETWEEN_S: Final = 120.0  # silence within an answer: the slowest CPU step of a large batch is far below
MAX_ANSWER_BYTES: Final = (
    64 << 20
)  # an answer that does not stream; 2,000 embeddings of 4,096 in JSON are 60 MB
MAX_ERROR_BYTES: Final = 64 << 10
NOT_RESIDENT: Final = 409  # the node says that it did not start the request
Tried = Literal["answered", "not_resident", "unreachable"]

log = logging.getLogger("nearfield.regions")


class Relay:
    """Connections to the nodes of one region, and what is under way on each."""

    def __init__(self, addresses: Iterable[str], hop_token: str) -> None:
        self.pools = {address: Pool(*split_address(address)) for address in addresses}
        self._headers: Headers = (
            ("authorization", f"Bearer {hop_token}"),
            ("content-type", "application/json"),
        )
        self.inflight: Counter[tuple[str, str]] = Counter()  # requests by (address, revision)

    async def close(self) -> None:
        """Closes all connections."""
        for pool in self.pools.values():
            await pool.close()

    def cut(self, address: str) -> None:
        """Give up what was sent to a node that has fallen silent; its connections would stay open for ever."""
        pool = self.pools.get(address)
        if pool is not None and pool.num_busy:
            log.warning("node %s is silent: %d requests to it are given up", address, pool.num_busy)
            pool.abort()

    def constant_head(self, head: RequestHead, address: str) -> bytes:
        """What every request of a client's head to one node begins with."""
        headers = (("host", self.pools[address].host_header), *self._headers, *said_of(head))
        return request_head_bytes("POST", head.path, headers).removesuffix(b"\r\n")

    def enter(self, route: tuple[str, str]) -> None:
        """A request is under way to (address, revision)."""
        self.inflight[route] += 1

    def leave(self, route: tuple[str, str]) -> None:
        """It is over."""
        self.inflight[route] -= 1
        if not self.inflight[route]:
            del self.inflight[route]

    async def try_node(self, trip: Trip, address: str, sent: Upstream | None = None) -> Tried:
        """Sends the request and relays the answer; the other two results mean that it was never started.

        `sent`: the connection on which it is under way already.

        Raises:
            Refusal: the node was lost or the deadline passed, before or after the client saw a first byte.
        """
        route = (address, trip.revision.id)
        self.enter(route)
        try:
            return await self._ask(trip, address, sent)
        finally:
            self.leave(route)

    async def _ask(self, trip: Trip, address: str, sent: Upstream | None) -> Tried:
        answer = await self._send(trip, address, sent)
        if answer is None:
            return "unreachable"
        try:
            if answer.head.status == NOT_RESIDENT:
                await answer.read(MAX_ERROR_BYTES)
                return "not_resident"
            if "first_byte" not in trip.phases.items:  # else it came on a lane
                trip.phases.mark("first_byte", answer.heard_at)
            trip.note_first(answer.head.headers)
            await _pass_back(trip, answer)
        except DialError as error:
            raise _lost(error) from error
        finally:
            answer.abort()
        return "answered"

    async def _send(self, trip: Trip, address: str, sent: Upstream | None) -> Answer | None:
        headers = trip.request_headers(self._headers)
        try:
            answer = await self.pools[address].request(
                "POST",
                trip.exchange.head.path,
                headers,
                trip.body,
                connect_s=CONNECT_S,
                head_s=max(trip.left_s(), 0.001),
                framed=True,
                sent=sent,
            )
        except DialError as error:
            if error.phase == "connect":
                return None
            raise _lost(error) from error
        if sent is None:
            trip.phases.mark_sent(answer.sent_at, answer.connect_s)
        return answer


async def _pass_back(trip: Trip, answer: Answer) -> None:
    streams = (answer.head.get("content-type") or "").startswith(SSE) and answer.head.status == 200
    if streams:
        await _pass_stream(trip, answer)
    elif trip.exchange.status:
        raise said_refusal(answer.head.status, await answer.read(MAX_ERROR_BYTES))
    else:
        await _pass_whole(trip, answer)


async def _pass_whole(trip: Trip, answer: Answer) -> None:
    """Read to its end before a byte goes out: a node lost meanwhile is a status, and the times are whole."""
    body = await _whole(trip, answer)
    trip.phases.mark("stream")
    upstream = answer.head.headers
    headers = (*trip.answer_headers(upstream), ("server-timing", trip.timing(upstream)))
    await trip.exchange.respond(answer.head.status, headers, body)


async def _whole(trip: Trip, answer: Answer) -> bytes:
    """The whole body; the deadline is looked at before each piece, so that a node that trickles meets it too."""
    body = bytearray()
    while data := await answer.next(trip.patience_s(BETWEEN_S)):
        body += data
        if len(body) > MAX_ANSWER_BYTES:
            raise DialError("body", answer.received, f"the answer exceeds {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


async def _pass_stream(trip: Trip, answer: Answer) -> None:
    exchange, cut = trip.exchange, EventCut()
    if not exchange.status:
        await exchange.start(200, trip.answer_headers(answer.head.headers))
    while data := await answer.next(trip.patience_s(BETWEEN_S)):
        if whole := cut.feed(data):
            trip.spoke = True
            await exchange.write(whole)
    trip.phases.mark("stream", answer.heard_at)
    await exchange.finish(cut.rest() + trip.receipt())


def _lost(error: DialError) -> Refusal:
    if error.timed_out:
        return Refusal(504, "deadline_exceeded", "The model did not answer in time.", "server_error")
    text = "The worker was lost while it answered; ask again."
    return Refusal(503, "worker_lost", text, "server_error", retry_after_s=1.0)
