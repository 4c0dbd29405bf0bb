"""Logs: one JSON object a line, read back, merged by time, filtered by what people know of a request."""

import json
import logging
import sys

import pytest

from deploy.logs.files import Tail, merged, tails
from deploy.logs.line import Line, Source, Wanted, of_record, read, shown
from deploy.logs.tail import log_tail
from deploy.logs.write import JsonLines
from regions.usage.record import Record

WHO = Source("region", "fra", "fra")


def _record(text, *values, **extra):
    made = logging.LogRecord("nearfield.regions", logging.WARNING, __file__, 1, text, values, None)
    made.__dict__.update(extra)
    return made


def test_a_line_is_one_object_and_is_read_back_as_it_was():
    """With quotes, newlines and names in it."""
    raw = JsonLines("region", "fra").format(
        _record('woke "%s"\nagain', "acme/m", model="acme/m", request_id="req_1")
    )
    value, line = json.loads(raw), read(raw, WHO, 0.0)

    assert "\n" not in raw
    assert set(value) == {"ts", "level", "logger", "role", "name", "model", "request_id", "message"}
    assert (line.level, line.text) == ("warning", 'woke "acme/m"\nagain')
    assert (line.model, line.request_id) == ("acme/m", "req_1")
    assert line.as_value()["ts"] == value["ts"]


def test_an_exception_stays_with_its_line():
    made = _record("it stopped")
    try:
        int("torn")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = read(JsonLines().format(made), WHO, 0.0)

    assert line.text.startswith("it stopped\nTraceback")
    assert "ValueError: invalid literal" in line.text


@pytest.mark.parametrize(
    ("raw", "level", "text"),
    [
        ("2026-11-26 15:00:00,250 INFO nearfield.x woke acme/m", "info", "woke acme/m"),
        ("Segmentation fault", "", "Segmentation fault"),
        ('{"ts": 1}', "", '{"ts": 1}'),
        ("{broken", "", "{broken"),
    ],
)
def test_what_is_no_object_is_taken_as_text(raw, level, text):
    """A line of an older version, a traceback, a torn line: nothing that was said is lost."""
    line = read(raw, WHO, 7.0)

    assert (line.level, line.text) == (level, text)
    assert (line.at == 7.0) == (not level)


USED = Record(
    "e:1", "req_abc", 0, "bob", "k1", "fra", "fra-0-1", "acme/m", "r", "chat", "own", "e", (1, 1),
    12, 4, 9, 8, 9, 318_000, 100.0, 100.5, "finished",
)  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "has"),
    [
        (Wanted(), True),
        (Wanted(model="acme/m"), True),
        (Wanted(model="acme/m2"), False),
        (Wanted(region="fra"), True),
        (Wanted(region="iad"), False),
        (Wanted(request="req_a"), True),
        (Wanted(request="req_b"), False),
        (Wanted(role="node", region="fra", model="acme/m", request="req_abc"), True),
        (Wanted(role="edge"), False),
    ],
)
def test_a_request_is_found_by_model_region_and_id(wanted, has):
    assert wanted.has(of_record(USED)) == has


def test_a_model_is_a_whole_name_in_a_text():
    line = Line(0.0, WHO, "info", "start of acme/tiny-2: region in 255 ms")

    assert Wanted(model="acme/tiny-2").has(line)
    assert not Wanted(model="acme/tiny").has(line)
    assert not Wanted(model="cme/tiny-2").has(line)


def test_a_request_says_what_it_cost_and_not_what_it_asked():
    text = shown(of_record(USED))

    assert "req_abc acme/m: chat finished: 12 + 9 tokens (4 kept) in 0.50 s, 0.318 device-seconds" in text


def _said(at, text):
    return json.dumps({"ts": f"2026-11-26T15:00:{at:02d}.000+00:00", "level": "info", "message": text}) + "\n"


def test_logs_are_merged_by_time_and_followed(tmp_path):
    """Half a line waits for its other half; a log that was begun anew is read from its beginning."""
    edge, node = tmp_path / "edge-local.log", tmp_path / "node-iad-0.log"
    edge.write_text(_said(1, "a") + _said(3, "c"))
    node.write_text(_said(2, "b"))
    found = tails(tmp_path, None)

    assert [line.text for line in merged(line for tail in found for line in tail.more())] == ["a", "b", "c"]
    assert {(tail.source.role, tail.source.name) for tail in found} == {("edge", "local"), ("node", "iad-0")}
    tail = found[0]
    with edge.open("a") as file:
        file.write(_said(4, "d")[:10])
        file.flush()
        assert tail.more() == []
        file.write(_said(4, "d")[10:])
    assert [line.text for line in tail.more()] == ["d"]
    edge.write_text(_said(5, "e"))
    assert [line.text for line in tail.more()] == ["e"]
    edge.unlink()
    assert tail.more() == []


def test_a_long_log_is_read_from_near_its_end(tmp_path, monkeypatch):
    """At the beginning of a line."""
    path = tmp_path / "edge-local.log"
    path.write_text("".join(_said(1, f"{number:04d}") for number in range(100)))
    monkeypatch.setattr("deploy.logs.files.MAX_TAIL_BYTES", 200)
    found = [line.text for line in Tail.near_end(path, WHO).more()]

    assert found
    assert found == [f"{number:04d}" for number in range(100 - len(found), 100)]


def test_the_last_words_of_a_role_are_for_people(tmp_path):
    path = tmp_path / "region-iad.log"
    path.write_text(_said(1, "the store is away") + "Traceback: x\n")

    assert log_tail(path) == "  the store is away\n  Traceback: x"
    assert log_tail(tmp_path / "none.log") == "  (it wrote no log)"
