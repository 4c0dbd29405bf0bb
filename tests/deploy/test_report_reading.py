"""A stream as the client reads it: the same whatever the pieces it arrives in."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.report.arms import Start
from deploy.report.reading import MAX_LINE_BYTES, StreamReading
from deploy.report.sample import Clock, of_stream
from tests.deploy.report_samples import delta, line

NODE = {
    "hop": "node",
    "total_ms": 9.0,
    "phases": {"prefill": 4.0},
    "completion_tokens": 5,
    "start": "resident",
}
BODY = (
    b': nearfield {"phase": "fetch", "percent": 10}\r\n\n'
    b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
    + delta("N\u00e4he")
    + delta(" ist gut.")
    + b"data: [DONE]\n\n"
    + line(NODE)
    + line({"hop": "edge", "total_ms": 12.0, "phases": {"read": 1.0}})
)


@given(st.lists(st.integers(0, len(BODY)), max_size=20))
def test_pieces_do_not_matter(cuts):
    """However the bytes are cut, the text, the receipts and the counts are the same."""
    reading, at = StreamReading(), 0
    for now, cut in enumerate(sorted(cuts)):
        reading.receive(BODY[at:cut], float(now))
        at = cut
    reading.receive(BODY[at:], 100.0)

    assert reading.text == "N\u00e4he ist gut."
    assert reading.num_events == 2
    assert reading.complete
    assert [receipt["hop"] for receipt in reading.receipts] == ["node", "edge"]
    assert reading.first_s is not None
    assert reading.last_s is not None
    assert reading.first_s <= reading.last_s


def test_the_first_token_is_the_first_text():
    """Neither a comment nor the empty opening chunk is a token."""
    reading = StreamReading()
    for now, piece in enumerate(BODY.split(b"\n\n")):
        reading.receive(piece + b"\n\n", float(now))

    assert reading.first_s == 2.0
    assert reading.last_s == 3.0


def test_the_sample_of_a_stream():
    """Counts come from the receipts where there is no usage; the coldest claim names the start."""
    reading = StreamReading()
    reading.receive(BODY, 0.5)
    made = of_stream("iad", Start.HOST, {"x-nearfield-start": "host"}, reading, Clock(0.0, 1.0))

    assert made.num_tokens == 5
    assert made.ttft_ms == 500.0
    assert made.e2e_ms == 1000.0
    assert made.found is Start.HOST
    assert made.tokens_per_s is None  # everything came at once: no rate can be told


@pytest.mark.parametrize(
    "body",
    [
        b"data: [DONE]\n\n",
        delta("half an answ"),
        delta("x") + b'data: {"error": {"code": "upstream_failed", "message": "lost"}}\n\ndata: [DONE]\n\n',
    ],
)
def test_an_answer_that_is_none_is_a_failure(body):
    """Empty, cut off, or ended in an error event: counted as failed."""
    reading = StreamReading()
    reading.receive(body, 0.1)

    assert of_stream("iad", Start.WARM, {}, reading, Clock(0.0, 1.0)).failure is not None


@pytest.mark.parametrize(
    "body", [b"data: [1]\n\n", b"data: {\n\n", b"data: nope\n\n", b"x" * (MAX_LINE_BYTES + 1)]
)
def test_what_no_server_of_ours_sends(body):
    """It is a ValueError, which the probe counts as a failure."""
    with pytest.raises(ValueError):
        StreamReading().receive(body, 0.0)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    """Never another error than ValueError."""
    with suppress(ValueError):
        StreamReading().receive(data + b"\n", 0.0)
