"""Every benchmark says the same thing in the same shape, and a ratio above 1 is always good news."""

import argparse
import io
import json
import re
import sys
import types

import pytest
from rich.console import Console

from bench import __main__ as command
from bench.machine import describe
from bench.rows import Outcome, Row, compare, middle, quantile
from bench.show import show


@pytest.mark.parametrize(
    ("ours", "peer", "better", "target", "ratio", "holds"),
    [
        (2.0, 8.0, "lower", 4.0, 4.0, True),
        (2.0, 7.9, "lower", 4.0, 3.95, False),
        (3.0, 2.0, "higher", 1.5, 1.5, True),
        (2.0, 3.0, "higher", None, 2 / 3, True),
        (0.0, 3.0, "lower", 1.0, 1e9, True),
        (3.0, 0.0, "higher", 1.0, 1e9, True),
    ],
)
def test_ratio(ours, peer, better, target, ratio, holds):
    """The ratio says how many times better we are, whichever way the unit points."""
    row = compare("x", ours, peer, "s", better=better, target=target)

    assert row.ratio == pytest.approx(ratio)
    assert row.holds is holds


def outcome(*rows):
    return Outcome("demo", {"cpu": "x", "cores": 2}, rows, ["as measured"])


GOOD = compare("good", 1.0, 4.0, "s", better="lower", target=2.0)
BAD = compare("bad", 1.23456, 1.0, "ms", better="lower", target=2.0)


def test_json_shape():
    """One line with exactly the fields the issue names (and notes)."""
    line = outcome(GOOD, BAD).to_json()
    value = json.loads(line)

    assert "\n" not in line
    assert list(value) == ["bench", "machine", "rows", "notes"]
    assert list(value["rows"][0]) == ["what", "ours", "peer", "unit", "ratio", "target", "holds"]
    assert value["rows"][1]["ours"] == 1.235
    assert value["rows"][1]["holds"] is False
    assert not outcome(GOOD, BAD).holds
    assert outcome(GOOD, Row("y", 1, 1, "s", 1, None, True)).holds


def test_table_for_people():
    """The table has every row, its verdict and the notes."""
    console = Console(file=io.StringIO(), width=120)
    show(outcome(GOOD, BAD), console)
    text = console.file.getvalue()

    for part in ("bench demo", "good", "bad", "4x", "NO", "yes", "as measured", "cores 2"):
        assert part in text


def test_quantile():
    """Nearest rank, in bounds for every share."""
    samples = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [quantile(samples, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 5.0, 5.0]


def test_machine_is_described():
    """What the figures depend on, and nothing that names the host."""
    found = describe()

    assert found["cores"] >= 1
    assert {"cpu", "memory_gib", "kernel", "python", "torch", "boto3"} <= set(found)
    json.dumps(found)


@pytest.fixture
def fake_bench(monkeypatch):
    module = types.ModuleType("bench.fake")
    module.rows = [GOOD]

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--size", type=int, default=1)

    def measure(options, say):
        say("working")
        return module.rows, [f"size {options.size}"]

    module.add_options, module.measure = add_options, measure
    monkeypatch.setitem(sys.modules, "bench.fake", module)
    monkeypatch.setattr(command, "BENCHES", {"fake": "a test"})
    return module


def test_command_prints_json_last(fake_bench, capsys):
    """With --json the last line of standard output is the object; progress goes to standard error."""
    status = command.main(["fake", "--json", "--size", "7"])
    out, err = capsys.readouterr()

    assert status == 0
    assert json.loads(out.splitlines()[-1])["notes"] == ["size 7"]
    assert re.fullmatch(r" *[0-9]+\.[0-9] s  working\n", err)


def test_command_prints_a_table_and_fails_with_its_targets(fake_bench, capsys):
    """Without --json a table; exit status 1 when a target is missed."""
    fake_bench.rows = [BAD]
    status = command.main(["fake"])

    assert status == 1
    assert "bench fake" in capsys.readouterr().out


def test_unknown_bench(capsys):
    """A wrong name is a usage error that lists the names."""
    with pytest.raises(SystemExit) as caught:
        command.main(["nothing"])

    assert caught.value.code == 2
    assert "cold" in capsys.readouterr().err


def test_every_listed_bench_exists():
    """Each name has a module with the two functions."""
    for name in command.BENCHES:
        module = command.import_module(f"bench.{name}")
        assert callable(module.add_options)
        assert callable(module.measure)


def test_the_middle_round_is_that_of_the_middle_quotient():
    """One slow minute made both slower, another one of them: neither is what is shown."""
    assert middle([(10.0, 5.0), (1.0, 0.55), (30.0, 10.0)]) == (10.0, 5.0)
    assert middle([(4.0, 2.0)]) == (4.0, 2.0)
