"""Whole events only, wherever the bytes were cut."""

from hypothesis import given
from hypothesis import strategies as st

from wire.eventcut import MAX_EVENT_BYTES, EventCut

STREAM = b': a\n\ndata: {"x":1}\n\n: b\n\ndata: [DONE]\r\n\r\ndata: rest'


def test_events_are_whole_wherever_bytes_end():
    for cut in range(len(STREAM)):
        events = EventCut()
        blocks = [events.feed(STREAM[:cut]), events.feed(STREAM[cut:])]
        assert all(block == b"" or block.endswith((b"\n\n", b"\r\n\r\n")) for block in blocks)
        assert b"".join(blocks) + events.rest() == STREAM
        assert events.rest() == b""


@given(
    st.lists(st.binary(max_size=8) | st.sampled_from([b"\n", b"\r", b"\n\n", b"data: x\n\n"]), max_size=20)
)
def test_nothing_is_lost_or_reordered(pieces):
    cut = EventCut()
    out = [cut.feed(piece) for piece in pieces]

    assert all(part == b"" or part.endswith((b"\n\n", b"\n\r\n")) for part in out)
    assert b"".join(out) + cut.rest() == b"".join(pieces)
    assert cut.rest() == b""


def test_engines_that_write_cr_lf_are_cut_too():
    cut = EventCut()

    assert cut.feed(b"data: 1\r\n\r\ndata: 2\r\n") == b"data: 1\r\n\r\n"
    assert cut.feed(b"\r\n") == b"data: 2\r\n\r\n"


def test_a_lone_cr_ends_no_event():
    cut = EventCut()

    assert cut.feed(b"data: a\rb") == b""
    assert cut.rest() == b"data: a\rb"


def test_a_monstrous_event_is_not_held():
    cut = EventCut()

    assert cut.feed(b"x" * MAX_EVENT_BYTES) == b""
    assert len(cut.feed(b"y")) == MAX_EVENT_BYTES + 1
