"""The small values of the ground floor: refusals, receipts, tokens, alarms, contexts."""

import asyncio
import json
import ssl

import pytest

from tests.wire.test_serve import until
from wire.alarm import Alarm
from wire.bearer import bearer, hop_token, require_token
from wire.dial import DialError
from wire.http.heads import RequestHead, response_head_bytes, without_hop_headers
from wire.http.http1 import RequestGate
from wire.listener.roster import site
from wire.refused.refusal import Refusal
from wire.timing import Phases, parse_receipt, parse_server_timing


def head(*headers):
    return RequestHead("GET", "/", "/", "", tuple(headers), None, False, True, False)


class Clock:
    def __init__(self):
        self.now = 10.0

    def __call__(self):
        return self.now


def test_phases_sum_to_the_total():
    clock = Clock()
    phases = Phases("edge", clock)
    for name, ms in (("read", 1), ("route", 2), ("read", 4)):
        clock.now += ms / 1000
        phases.mark(name)
    phases.add("other", 0.5)

    assert phases.items == pytest.approx({"read": 5.0, "route": 2.0, "other": 0.5})
    assert phases.total_ms() == pytest.approx(7.0)
    assert (
        phases.header() == "edge;dur=7.000, edge.read;dur=5.000, edge.route;dur=2.000, edge.other;dur=0.500"
    )
    assert parse_server_timing(phases.header()) == {
        "edge": 7.0,
        "edge.read": 5.0,
        "edge.route": 2.0,
        "edge.other": 0.5,
    }


def test_receipts_survive_the_stream():
    phases = Phases("node", Clock())
    line = phases.comment({"start": "warm", "bytes": {"remote": 0}})

    assert line.startswith(b": nearfield {")
    assert line.endswith(b"}\n\n")
    assert parse_receipt(line) == {
        "hop": "node",
        "total_ms": 0.0,
        "phases": {},
        "start": "warm",
        "bytes": {"remote": 0},
    }


def test_a_span_that_ended_before_it_is_marked_ends_then_and_never_before_the_last():
    clock = Clock()
    phases = Phases("edge", clock)
    clock.now += 0.010
    phases.mark("first_byte", 10.004)
    phases.mark("stream", 10.001)
    line = parse_receipt(phases.comment(last="finish"))

    assert line["phases"] == {"first_byte": 4.0, "stream": 0.0, "finish": 6.0}
    assert line["total_ms"] == 10.0


@pytest.mark.parametrize(
    "line", [b"data: {}", ": nearfield [1]", ": nearfield {", ": nearfield " + "1" * 20_000, ""]
)
def test_other_lines_are_no_receipts(line):
    assert parse_receipt(line) is None


def test_foreign_server_timing_is_skipped():
    assert parse_server_timing("cache;desc=hit, db;dur=5.5;desc=x, app;dur=1, x;dur=abc") == {"app": 1.0}


def test_refusals_speak_openai():
    refusal = Refusal(404, "model_not_found", "No model 'ä'.", param="model", retry_after_s=0.1)

    assert json.loads(refusal.body()) == {
        "error": {
            "message": "No model 'ä'.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    assert refusal.headers() == (("content-type", "application/json"), ("retry-after", "1"))


def test_hop_tokens():
    token = hop_token(b"k" * 32)

    assert len(token) == 64
    assert token != hop_token(b"l" * 32)
    require_token(head(("authorization", f"bearer {token}")), token)
    for shown in ("", token, f"Basic {token}", f"Bearer {token}x", "Bearer ", "Bearer \xe9"):
        with pytest.raises(Refusal) as refusal:
            require_token(head(("authorization", shown)), token)
        assert refusal.value.status == 401
    assert bearer(head()) is None


def test_hop_headers_are_dropped():
    headers = (
        ("connection", "x-Own, close"),
        ("x-own", "1"),
        ("te", "trailers"),
        ("upgrade", "a"),
        ("accept", "b"),
    )

    assert without_hop_headers(headers) == (("accept", "b"),)
    assert without_hop_headers(headers, also={"accept"}) == ()


def test_response_heads_refuse_line_ends():
    with pytest.raises(ValueError, match="line end"):
        response_head_bytes(200, (("a", "b\r\n"),))
    with pytest.raises(UnicodeEncodeError):
        response_head_bytes(200, (("a", "\u20ac"),))


async def test_alarms_ring_once_at_the_last_deadline():
    rung, loop = [], asyncio.get_running_loop()
    alarm = Alarm(lambda: rung.append(loop.time()))
    due = loop.time() + 0.06
    alarm.set(0.02)
    alarm.set(0.06)
    await until(lambda: rung)
    assert rung[0] >= due - 0.002
    alarm.set(100)
    alarm.set(0.01)  # earlier than before
    await until(lambda: len(rung) == 2)
    alarm.set(0.01)
    alarm.set(None)
    alarm.set(0.01)
    alarm.stop()
    await asyncio.sleep(0.03)
    assert len(rung) == 2


def test_contexts_are_modern(tls):
    for context in tls:
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls[1].verify_mode == ssl.CERT_REQUIRED
    assert tls[1].check_hostname


def test_dial_errors_say_where():
    error = DialError("body", 12, "cut", timed_out=True)

    assert (str(error), error.phase, error.received, error.timed_out) == ("body: cut", "body", 12, True)


def test_a_head_with_other_headers_looks_them_up_in_those():
    (message,) = RequestGate().receive(b"GET / HTTP/1.1\r\nHost: a\r\nX-Id: old\r\n\r\n")
    head = message.head.with_headers((("x-id", "new"),))

    assert (head.get("x-id"), head.get("host")) == ("new", None)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "", True),
    ],
)
def test_whose_connection_it_is(one, other, is_same):
    """Who has one IPv6 address has 2^64 of them."""
    assert (site(one) == site(other)) is is_same
