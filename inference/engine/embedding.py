"""The loop of an embedding or reranking engine: orders in, one pass at a time, vectors out (a score is one number)."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING

import torch

from inference.engine.choose.sample import ROW_FAULTS
from inference.engine.embed import Batcher, Encoder, Scorer, little_endian
from inference.engine.orders.asked import (
    PONG,
    Cancel,
    Embed,
    Generate,
    OrderRefused,
    Ping,
    Stop,
)
from inference.engine.orders.reading import parse_order
from inference.usage.meter import Meter, cost_fields
from wire.counted import counted

if TYPE_CHECKING:
    from inference.engine.linear.packing import Packing
    from inference.engine.orders.asked import Bounds
    from inference.engine.steps.embed_turns import Place
    from inference.link import EngineLink, Message

STATS_S = 1.0
"""Between two `stats` messages while there is something to tell."""
ONE_ROW = 1
"""A budget of a pass that holds no second row, however short."""
EMBED_SLOTS = 64
"""Orders we say we take at once; rows, not orders, fill a pass."""


class EmbedLoop:
    """Serves embedding orders of one link until it is told to stop."""

    def __init__(
        self,
        link: EngineLink,
        encoder: Encoder | Scorer,
        bounds: Bounds,
        *,
        one_by_one: bool = False,
        meter: Meter | None = None,
        packing: Packing | None = None,
    ) -> None:
        """`one_by_one`: a row a pass, so that no vector's bits depend on whom it is padded beside.

        `packing`: of what to do a little after each pass.
        """
        self._packing = packing
        self._link = link
        self._meter = meter or Meter()
        self._encoder = encoder
        self._bounds = bounds
        self._batcher = Batcher(ONE_ROW) if one_by_one else Batcher()
        self._stopping = False
        self._ms_per_token: float | None = None
        self._pass_ms: float | None = None
        self._stats_at_s = 0.0
        self._told: Message = {}

    def serve(self, ready: Message) -> None:
        """Say ready, then compute until stopped and idle, or until the node is gone."""
        room = {"pongs": True, "slots": EMBED_SLOTS, "kv_bytes": 0, "max_len": self._bounds.max_len}
        self._link.send([{**ready, **room}])
        while not self._link.closed and not (self._stopping and not self._batcher.num_orders):
            for message in self._link.poll(self._patience_s()):
                self._hear(message)
            if self._batcher.num_rows:
                self._pass()
            self._tell_stats()

    def _patience_s(self) -> float | None:
        if self._batcher.num_rows:
            return 0.0
        return STATS_S if self._stats() != self._told else None

    def _hear(self, message: Message) -> None:
        try:
            order = parse_order(message, self._bounds)
        except OrderRefused as refused:
            self._fail(refused.id, refused.code, refused.message)
            return
        match order:
            case Embed():
                self._add(order)
            case Cancel():
                if self._batcher.drop(order.id):
                    self._fail(order.id, "cancelled", "cancelled")
            case Ping():
                self._link.send([PONG])
            case Stop():
                self._stopping = True
            case Generate():
                self._fail(order.id, "bad_request", "this model does not generate text")

    def _add(self, order: Embed) -> None:
        if self._stopping:
            self._fail(order.id, "stopping", "this engine is stopping")
        elif not self._batcher.add(order):
            self._fail(order.id, "overloaded", f"{counted(self._batcher.num_rows, 'row')} waiting already")

    def _pass(self) -> None:
        started_ns = time.perf_counter_ns()
        places = self._batcher.plan()
        faults: dict[str, tuple[str, str]] = {}
        computed = self._encoded(places, faults)
        took_ns = time.perf_counter_ns() - started_ns
        took_ms = took_ns / 1e6
        self._meter.step(((place.id, len(place.tokens), 0) for place in places), took_ns)
        for order_id, (code, message) in faults.items():
            self._drop(order_id, code, message)
        self._pass_ms, self._ms_per_token = took_ms, took_ms / sum(len(place.tokens) for place in places)
        done = self._batcher.commit(list(computed), list(computed.values()))
        if done:
            self._link.send([_vectors_message(order, data) | self._cost(order.id) for order, data in done])
        if self._packing and self._packing.is_wanted:
            self._packing.go_on(time.perf_counter())

    def _encoded(self, places: list[Place], faults: dict[str, tuple[str, str]]) -> dict[Place, bytes]:
        """The vectors of the rows that could be computed; the orders of the others are to fail by their first fault."""
        try:
            vectors = self._encoder.encode(
                [place.tokens for place in places], [place.segments for place in places]
            )
        except ROW_FAULTS as fault:
            if len(places) > 1:
                found = [self._encoded([one], faults) for one in places]
                return {place: vector for each in found for place, vector in each.items()}
            faults.setdefault(places[0].id, ("engine_error", f"{type(fault).__name__}: {fault}"[:500]))
            return {}
        sane = torch.isfinite(vectors).all(dim=-1).tolist()
        for place in (place for place, ok in zip(places, sane, strict=True) if not ok):
            faults.setdefault(place.id, ("poisoned", "the model gave no finite numbers for this request"))
        kept = zip(places, little_endian(vectors), sane, strict=True)
        return {place: vector for place, vector, ok in kept if ok}

    def _drop(self, order_id: str, code: str, message: str) -> None:
        if self._batcher.drop(order_id):
            self._fail(order_id, code, message)

    def _fail(self, order_id: str, code: str, message: str) -> None:
        said = {"op": "failed", "id": order_id, "code": code, "message": message}
        self._link.send([said | self._cost(order_id)])

    def _cost(self, order_id: str) -> Message:
        return cost_fields(self._meter.close(order_id))

    def _stats(self) -> Message:
        return {
            "op": "stats",
            "running": self._batcher.num_orders,
            "waiting": 0,
            "step_ms": None if self._pass_ms is None else round(self._pass_ms, 4),
            "prefill_ms_per_token": None if self._ms_per_token is None else round(self._ms_per_token, 4),
        }

    def _tell_stats(self) -> None:
        now = time.perf_counter()
        if now >= self._stats_at_s + STATS_S and (stats := self._stats()) != self._told:
            self._link.send([stats])
            self._told, self._stats_at_s = stats, now


def _vectors_message(order: Embed, data: bytes) -> Message:
    return {
        "op": "vectors",
        "id": order.id,
        "dim": len(data) // 4 // len(order.rows),
        "data": base64.b64encode(data).decode(),
        "tokens": sum(map(len, order.rows)),
    }
