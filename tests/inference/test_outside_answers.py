"""What an external engine says, made ours: events, errors, counts, names, figures, output. Pure functions."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.outside.answers import Counts, counts_of, error_in, refusal_of, renamed
from inference.outside.events import Event, EventReader, StreamError, is_last
from inference.outside.metrics import MAX_PAGE_BYTES, merged
from inference.outside.process import LINES_PER_S, MAX_LINE_BYTES, Output
from inference.workers.residency.backoff import LAST_PAUSE_S, STEADY_S, BackOff

STREAM = (
    b": hello\n\nevent: a\ndata: {1}\n\ndata: two\r\ndata: lines\r\n\r\nid: 7\nretry: 3\n\n"
    b"data: \xf0\x9f\x98\x80\n\ndata: [DONE]\n\n"
)
EVENTS = [Event("{1}", "a"), Event("two\nlines"), Event("\N{GRINNING FACE}"), Event("[DONE]")]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_says_the_same_however_it_is_cut(cuts):
    reader, found, places = EventReader(1 << 20), [], sorted({0, *cuts, len(STREAM)})
    for start, end in pairwise(places):
        found += reader.feed(STREAM[start:end])

    assert found + reader.end() == EVENTS


def test_a_stream_may_end_without_its_last_empty_line():
    reader = EventReader(1 << 20)

    assert reader.feed(b"data: a") == []
    assert reader.end() == [Event("a")]


@given(st.binary(max_size=400))
def test_bytes_that_are_no_stream_are_that_and_nothing_else(data):
    try:
        events = EventReader(1 << 20).feed(data)
    except StreamError:
        return
    assert all(isinstance(each, Event) for each in events)


@pytest.mark.parametrize(
    ("data", "max_bytes"),
    [(b"data: " + b"x" * (2 << 20), 1 << 30), (b"data: a\n\n" * 40, 100), (b"data: \xff\n\n", 1 << 20)],
)
def test_a_stream_is_bounded(data, max_bytes):
    with pytest.raises(StreamError):
        EventReader(max_bytes).feed(data)


@pytest.mark.parametrize(
    ("value", "last"),
    [
        ({"choices": [{"finish_reason": None}]}, False),
        ({"choices": [{"finish_reason": "stop"}]}, True),
        ({"choices": []}, False),
        ({"choices": "x"}, False),
        ({"type": "response.completed"}, True),
        ({"type": "message_stop"}, True),
        ({"type": "message_delta"}, False),
    ],
)
def test_which_event_ends_an_answer(value, last):
    assert is_last(value) is last


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "bad top_p", "param": "top_p"}}, (400, "bad_request", "top_p")),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "no"}]}, (400, "bad_request", "n")),
        (
            400,
            {"object": "error", "message": "maximum context length is 9"},
            (400, "context_length_exceeded", None),
        ),
        (
            400,
            {"error": {"code": "context_length_exceeded", "message": "no"}},
            (400, "context_length_exceeded", None),
        ),
        (429, {"error": "busy"}, (429, "overloaded", None)),
        (503, {"message": "later"}, (503, "overloaded", None)),
        (404, {"detail": "Not Found"}, (404, "not_found", None)),
        (401, {"detail": "key"}, (502, "engine_failed", None)),
        (500, "Internal", (502, "engine_failed", None)),
        (302, "", (502, "engine_failed", None)),
        (400, "[" * 5_000, (400, "bad_request", None)),
    ],
)
def test_an_error_of_any_shape_has_ours(status, body, expected):
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    refusal = refusal_of(status, data, "acme/m", "/folder")

    assert (refusal.status, refusal.code, refusal.param) == expected
    assert 0 < len(refusal.message) < 1_200


def test_the_engine_s_own_paths_are_not_shown():
    body = b'{"error": {"message": "no file /state/outside/0/abc/model/x.json\\nTraceback"}}'
    refusal = refusal_of(400, body, "acme/m", "/state/outside/0/abc/model")

    assert refusal.message == "no file acme/m/x.json Traceback"


@given(st.integers(100, 599), st.binary(max_size=300))
def test_any_answer_becomes_a_refusal_that_can_be_sent(status, body):
    refusal = refusal_of(status, body, "acme/m", "/folder")

    assert 400 <= refusal.status < 600
    assert json.loads(refusal.body())["error"]["code"] == refusal.code


@pytest.mark.parametrize(
    ("value", "is_error"),
    [
        ({"error": "broke"}, True),
        ({"error": {"message": "broke"}}, True),
        ({"type": "error", "error": {"message": "m"}}, True),
        ({"error": None, "choices": []}, False),
        ({"choices": []}, False),
    ],
)
def test_an_error_inside_a_stream(value, is_error):
    assert (error_in(value, "acme/m", "/f") is not None) is is_error


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 2}}, Counts(3, 2, 0)),
        ({"usage": {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 1}}, Counts(3, 2, 1)),
        ({"response": {"usage": {"input_tokens": 3, "output_tokens": 2}}}, Counts(3, 2, 0)),
        ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}}, Counts(3, 0, 2)),
        ({"usage": {"prompt_tokens": -3, "completion_tokens": "x"}}, Counts(0, 0, 0)),
        ({"usage": None}, None),
        ({"response": 3}, None),
    ],
)
def test_counts_of_every_api(value, counts):
    assert counts_of(value) == counts


def test_the_model_is_ours_wherever_it_stands():
    value = {"model": "/m", "response": {"model": "/m", "id": "r"}, "message": "words", "x": {"model": "/m"}}

    assert renamed(value, "acme/m") == {
        "model": "acme/m",
        "response": {"model": "acme/m", "id": "r"},
        "message": "words",
        "x": {"model": "/m"},
    }


def test_pages_of_two_engines_are_one_page_with_each_family_once():
    page = b'# HELP v:x X.\n# TYPE v:x histogram\nv:x_bucket{le="1"} 2\nv:x_sum 3\nplain 1 1700000000\nnot a line\n'
    text = merged([("a", "m/1", page), ("b", 'm"2', page)]).decode()
    lines = text.splitlines()

    assert lines == [
        "# HELP v:x X.",
        "# TYPE v:x histogram",
        'v:x_bucket{engine="a",served="m/1",le="1"} 2',
        'v:x_sum{engine="a",served="m/1"} 3',
        'v:x_bucket{engine="b",served="m\\"2",le="1"} 2',
        'v:x_sum{engine="b",served="m\\"2"} 3',
        'plain{engine="a",served="m/1"} 1',
        'plain{engine="b",served="m\\"2"} 1',
    ]


@given(st.binary(max_size=500))
def test_no_page_forges_a_figure_of_ours(page):
    text = merged([("a", "m", b"nearfield_x 1\n# TYPE nearfield_x gauge\n" + page)]).decode()

    assert not any(line.startswith(("nearfield_", "# TYPE nearfield_")) for line in text.splitlines())


def test_a_page_is_bounded():
    assert len(merged([("a", "m", b"x 1\n" * MAX_PAGE_BYTES)])) < 1 << 20


def test_output_is_counted_cut_and_passed_on_so_many_lines_a_second():
    output = Output()
    first = output.feed(b"x" * 10_000 + b"\n" + b"line\n" * 100 + b"half", 5.0)
    later = output.feed(b" more\n\x1b[31mred\x00\n", 6.0)

    assert len(first[0]) == MAX_LINE_BYTES
    assert len(first) == LINES_PER_S
    assert later == ["half more", "?[31mred?"]
    assert output.num_dropped == 101 - LINES_PER_S
    assert output.last[-1] == "?[31mred?"


def test_a_line_without_an_end_takes_no_more_than_its_bound():
    output = Output()
    for _ in range(100):
        output.feed(b"x" * 65_536, 1.0)

    assert len(output._rest) <= MAX_LINE_BYTES


def test_pauses_double_up_to_a_bound_and_one_steady_run_forgets_them():
    fallen, pauses = BackOff(), []
    for _ in range(12):
        fallen.fell(0.0, 1.0)
        pauses.append(fallen.pause_s())
    fallen.fell(0.0, STEADY_S)

    assert pauses[:4] == [0.0, 0.5, 1.0, 2.0]
    assert pauses[-1] == LAST_PAUSE_S
    assert fallen.pause_s() == 0.0


def test_what_is_left_of_a_pause():
    fallen = BackOff()
    fallen.fell(0.0, 1.0)
    fallen.fell(1.0, 2.0)

    assert (fallen.left_s(2.0), fallen.left_s(2.4), fallen.left_s(9.0)) == (0.5, pytest.approx(0.1), 0.0)
