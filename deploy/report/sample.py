"""One request of the report: what was wanted, what was found, how long it took and where the time went."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.report.arms import Start, coldest
from deploy.report.phases import Breakdown, Hop, first_token, hop_of, hops_of_timing, whole
from deploy.report.reading import StreamReading
from wire.timing import parse_server_timing

SOURCES = ("remote", "region", "copied", "mapped", "host")  # where a start's bytes came from, farthest first


@dataclass(frozen=True, slots=True)
class Eta:
    """What the gateway expected of a start when it began, and what it took, in ms."""

    expected_ms: float
    took_ms: float

    @property
    def error(self) -> float:
        """How far off it was, as a share of what it took."""
        return abs(self.expected_ms - self.took_ms) / self.took_ms


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. `found` is what the platform says the request met; a `failure` has no figures.

    `late_ms` is by how much the client itself sent it after it was due; the times hold it, as a phase of its own.
    `start_ms` are the phases of the start that it waited for, as its host measured them: empty if it waited for none.
    """

    region: str
    wanted: Start
    found: Start | None = None
    failure: str | None = None
    ttft_ms: float | None = None
    e2e_ms: float | None = None
    num_tokens: int | None = None
    num_prompt_tokens: int | None = None
    tokens_per_s: float | None = None
    before_first: Breakdown | None = None
    whole: Breakdown | None = None
    num_bytes: Mapping[str, int] = field(default_factory=dict)
    eta: Eta | None = None
    revision: str | None = None
    request_id: str | None = None
    late_ms: float = 0.0
    start_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def start(self) -> Start:
        """The row it counts under: what it found; what was wanted if nothing is known."""
        return self.found or self.wanted


BURST_S = 5e-5
"""Tokens closer together than this came in one piece: no engine decodes 20,000 a second for one stream."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The client's clock for one request, in seconds: when it was due, when it ended, by how much it was sent late."""

    asked_s: float
    ended_s: float
    late_s: float = 0.0

    def since(self, at_s: float | None) -> float:
        """Milliseconds from asking to ``at_s``, or to the end."""
        return ((self.ended_s if at_s is None else at_s) - self.asked_s) * 1000


def failed(region: str, wanted: Start, why: str) -> Sample:
    """A request that gave no figures; it is counted."""
    return Sample(region, wanted, failure=why)


def of_stream(
    region: str, wanted: Start, headers: Mapping[str, str], reading: StreamReading, clock: Clock
) -> Sample:
    """The sample in a stream that was read to its end."""
    if reading.error is not None or not reading.complete or reading.first_s is None:
        return failed(region, wanted, reading.error or "the stream ended without an answer")
    hops = [hop for receipt in reading.receipts if (hop := hop_of(receipt)) is not None]
    num_tokens = _count(reading, "completion_tokens") or reading.num_events
    decode_ms = max((hop.phases_ms.get("decode", 0.0) for hop in hops), default=0.0)
    # a late reader sees tokens in bursts, so the engine's own span counts when it is the longer one
    span_s = max((reading.last_s or 0.0) - reading.first_s, decode_ms / 1000)
    is_measured = num_tokens > 1 and span_s > (num_tokens - 1) * BURST_S
    rate = (num_tokens - 1) / span_s if is_measured else None
    return Sample(
        num_tokens=num_tokens,
        num_prompt_tokens=_count(reading, "prompt_tokens"),
        tokens_per_s=rate,
        **_shared(region, wanted, headers, reading.receipts, hops, clock, clock.since(reading.first_s)),
    )


def of_answer(
    region: str, wanted: Start, headers: Mapping[str, str], usage: Mapping[str, Any], clock: Clock
) -> Sample:
    """The sample in a whole answer (vectors or scores): its first token is its end."""
    hops = hops_of_timing(parse_server_timing(headers.get("server-timing", "")))
    prompt = usage.get("prompt_tokens")
    return Sample(
        num_prompt_tokens=prompt if isinstance(prompt, int) else None,
        **_shared(region, wanted, headers, (), hops, clock, clock.since(None)),
    )


def _shared(
    region: str,
    wanted: Start,
    headers: Mapping[str, str],
    receipts: Sequence[Mapping[str, object]],
    hops: Sequence[Hop],
    clock: Clock,
    ttft_ms: float,
) -> dict[str, Any]:
    e2e_ms = clock.since(None)
    claims = [str(receipt.get("start")) for receipt in receipts] + [headers.get("x-nearfield-start")]
    late_ms, eta = clock.late_s * 1000, _eta(headers, receipts)
    return {
        "region": region,
        "wanted": wanted,
        "found": coldest(claims),
        "ttft_ms": ttft_ms,
        "e2e_ms": e2e_ms,
        "before_first": first_token(hops, ttft_ms - late_ms).after(late_ms),
        "whole": whole(hops, e2e_ms - late_ms).after(late_ms),
        "late_ms": late_ms,
        "num_bytes": _num_bytes(headers, receipts),
        "eta": eta,
        "start_ms": {name: ms for hop in hops for name, ms in hop.start_ms.items()} if eta else {},
        "revision": headers.get("x-nearfield-revision"),
        "request_id": headers.get("x-request-id"),
    }


def _count(reading: StreamReading, name: str) -> int | None:
    """A count of tokens: of the usage, else of a receipt."""
    claims = [reading.usage.get(name), *(receipt.get(name) for receipt in reading.receipts)]
    return next((claim for claim in claims if isinstance(claim, int)), None)


def _num_bytes(headers: Mapping[str, str], receipts: Sequence[Mapping[str, object]]) -> dict[str, int]:
    """Bytes by source: the largest claim of any hop, so that no hop can hide another's remote read.

    An answer without receipts says its remote bytes in a header and nothing of the others: they are left out.
    """
    remote = headers.get("x-nearfield-remote-bytes", "")
    claims: list[tuple[str, object]] = [("remote", int(remote) if remote.isdecimal() else 0)]
    for receipt in receipts:
        claims.append(("remote", receipt.get("remote_bytes")))
        by_source = receipt.get("bytes")
        claims += list(by_source.items()) if isinstance(by_source, Mapping) else []
    found = dict.fromkeys(SOURCES if receipts else SOURCES[:1], 0)
    for source, claim in claims:
        if source in found and isinstance(claim, int) and claim >= 0:
            found[source] = max(found[source], claim)
    return found


def _eta(headers: Mapping[str, str], receipts: Sequence[Mapping[str, object]]) -> Eta | None:
    """The gateway's estimate of the start that the request waited for; None if it waited for none."""
    claims = [receipt.get("eta") for receipt in receipts]
    timing = parse_server_timing(headers.get("server-timing", ""))
    claims.append({"expected_ms": timing.get("eta.expected"), "took_ms": timing.get("eta.took")})
    for claim in claims:
        figures = _milliseconds(claim)
        if figures is not None:
            return Eta(*figures)
    return None


def _milliseconds(claim: object) -> tuple[float, float] | None:
    """(expected, took) in a claim that came over the wire; None if it is not one."""
    if not isinstance(claim, Mapping):
        return None
    values = [claim.get(name) for name in ("expected_ms", "took_ms")]
    found = [float(value) for value in values if isinstance(value, int | float) and 0 <= value < math.inf]
    return (found[0], found[1]) if len(found) == 2 and found[1] > 0 else None
