"""A request's trace through a real platform: one for each, its parents right, its sums those of the receipt."""

import json
import os
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from tests.e2e.platform import CHAT, RunningPlatform, questions, tls, wait_for
from tests.wire.otlp import Collector, Seen, children
from wire.timing import parse_receipt, parse_server_timing

PROMPT = questions()[0]
HOPS = {"edge": "nearfield-edge", "gateway": "nearfield-region", "node": "nearfield-node"}
CLOSE_MS = 0.002
"""Receipts round to a microsecond, spans to a nanosecond."""


def body(**more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": PROMPT["question"]}
    return {"model": CHAT, "messages": [message], "temperature": 0, "max_tokens": 64, **more}


def parent(*, sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """(trace, span, headers) of a client that has a trace of its own."""
    trace, span = os.urandom(16).hex(), os.urandom(8).hex()
    said = {"traceparent": f"00-{trace}-{span}-0{int(sampled)}", "tracestate": "vendor=theirs"}
    return trace, span, said


def ask(platform: RunningPlatform, headers: Mapping[str, str], **more: Any) -> httpx2.Response:
    c = platform.credentials
    url, own = c.regions["fra"] + "/chat/completions", {"authorization": f"Bearer {c.api_key}"}
    answer = httpx2.post(url, json=body(**more), headers=own | dict(headers), verify=tls(c.ca), timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def spans_of(collector: Collector, trace: str) -> list[Seen]:
    """All of a trace, once each of the three hops has told its own part (which comes as one)."""

    def whole() -> list[Seen]:
        found = collector.of(trace)
        return found if {span.service for span in found} == set(HOPS.values()) else []

    return list(wait_for(whole, 20, f"the trace {trace}"))


def receipts(answer: httpx2.Response) -> dict[str, dict[str, float]]:
    """What each hop of a stream said of its phases, in ms."""
    found: dict[str, dict[str, float]] = {}
    for line in answer.text.splitlines():
        said = parse_receipt(line)
        if said is not None and "hop" in said:
            found[str(said["hop"])] = dict(said["phases"])  # type: ignore[call-overload]
    return found


def check(spans: list[Seen], client: str, phases: Mapping[str, Mapping[str, float]]) -> dict[str, Seen]:
    """Who is whose parent, and that each hop's phases are those of its receipt; the hops' own spans."""
    by_id, below = {span.id: span for span in spans}, children(spans)
    assert len(by_id) == len(spans), "ids are each one's own"
    own = {
        hop: next(s for s in spans if (s.service, s.kind) == (service, "server"))
        for hop, service in HOPS.items()
    }
    (asked,) = [span for span in spans if span.kind == "client"]
    assert [own["edge"].parent, asked.parent] == [client, own["edge"].id]
    assert [own["gateway"].parent, own["node"].parent] == [asked.id, own["gateway"].id]
    for hop, said in phases.items():
        found = {
            span.name.removeprefix(f"{hop}."): span
            for span in below[own[hop].id]
            if span.service == HOPS[hop]
        }
        found.pop("ask fra", None)
        assert {name: span.ms for name, span in found.items()} == pytest.approx(said, abs=CLOSE_MS), hop
        assert all(own[hop].begin <= span.begin <= span.end <= own[hop].end for span in found.values()), hop
    assert all(span.parent in by_id for span in spans if span.id != own["edge"].id)
    assert {span.state for span in own.values()} == {"vendor=theirs"}
    return own


def test_a_cold_request_is_one_trace_down_to_where_its_start_went(
    platform: RunningPlatform, collector: Collector
):
    """Edge, gateway with the whole start, node: each phase as the stream's receipt has it."""
    platform.cool("fra", CHAT, "region")
    trace, span, headers = parent()
    answer = ask(platform, headers, stream=True)
    spans, told = spans_of(collector, trace), receipts(answer)
    own = check(spans, span, {hop: told[hop] for hop in HOPS})
    below = children(spans)
    (start,) = [each for each in spans if each.name == "start"]
    wake = next(each for each in spans if each.id == start.parent)
    phases = {each.name: each.ms for each in below[start.id]}

    assert (wake.name, wake.parent) == ("gateway.wake", own["gateway"].id)
    assert own["gateway"].values["nearfield.start"] == own["node"].values["nearfield.start"] == "region"
    assert {
        "start.queue",
        "start.prepare",
        "start.fetch",
        "start.verify",
        "start.attach",
        "start.order",
    } <= set(phases)
    assert sum(phases.values()) == pytest.approx(start.ms, abs=0.01)
    assert start.values["nearfield.bytes.remote"] == 0
    assert (
        sum(start.values[f"nearfield.bytes.{source}"] for source in ("region", "copied", "mapped", "host"))
        > 1e6
    )
    assert {"node.queue", "node.prefill", "node.decode"} <= {each.name for each in below[own["node"].id]}
    assert own["node"].values["gen_ai.usage.output_tokens"] > 0
    assert own["edge"].values["nearfield.request_id"] == answer.headers["x-request-id"]
    assert {each.values["nearfield.request_id"] for each in own.values()} == {answer.headers["x-request-id"]}


@pytest.mark.parametrize("stream", [True, False])
def test_a_warm_request_is_one_trace_without_a_start(
    platform: RunningPlatform, collector: Collector, stream: bool
):
    ask(platform, {})
    trace, span, headers = parent()
    answer = ask(platform, headers, stream=stream)
    timing = parse_server_timing(answer.headers.get("server-timing", ""))
    said = receipts(answer) or {
        hop: {name.removeprefix(f"{hop}."): ms for name, ms in timing.items() if name.startswith(f"{hop}.")}
        for hop in HOPS
    }
    spans = spans_of(collector, trace)
    own = check(spans, span, said)

    assert not [each for each in spans if each.name.startswith(("start", "gateway.wake"))]
    assert own["node"].values["nearfield.start"] == "warm"
    assert own["edge"].values["http.response.status_code"] == 200
    assert not any(each.is_error for each in spans)


def test_who_does_not_sample_is_not_recorded_and_nothing_tells_what_was_said(
    platform: RunningPlatform, collector: Collector
):
    """The flag is honoured at every hop; and in all that ever went to the collector there is no prompt and no key."""
    quiet, _, unsampled = parent(sampled=False)
    loud, _, sampled = parent()
    answer = ask(platform, unsampled)
    ask(platform, sampled)
    spans_of(collector, loud)
    told = b"".join(collector.bodies).decode()

    assert answer.json()["choices"][0]["message"]["content"].strip() == PROMPT["answer"]
    assert collector.of(quiet) == []
    assert all(
        secret not in told for secret in (PROMPT["question"], PROMPT["answer"], platform.credentials.api_key)
    )
    assert "traceparent" not in json.dumps(dict(answer.headers))


def test_a_refused_request_has_its_code_in_its_trace(platform: RunningPlatform, collector: Collector):
    trace, span, headers = parent()
    c = platform.credentials
    own = {"authorization": f"Bearer {c.api_key}"}
    asked = body() | {"model": "no/such-model"}
    url = c.base_url + "/chat/completions"
    answer = httpx2.post(url, json=asked, headers=own | headers, verify=tls(c.ca), timeout=60)
    (found,) = wait_for(lambda: collector.of(trace), 20, "the trace")

    assert answer.status_code == 404
    assert (found.parent, found.service, found.is_error) == (span, "nearfield-edge", True)
    assert found.values["error.type"] == "model_not_found"
