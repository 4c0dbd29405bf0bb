"""Two reports side by side: a real change is clear, chance is not, few requests say nothing; and the exit status."""

import json
import random
from functools import cache

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.report.gate.diff import changes, keys
from deploy.report.gate.failures import chance, failures
from deploy.report.out.markdown import comparison
from deploy.report.out.values import as_json_document
from deploy.report.stats import ratio_interval
from deploy.schemas.outputs import OUTPUTS
from deploy.terminal.exits import Exit
from tests.deploy.conforms import breaches
from tests.deploy.report_samples import report


@cache
def written(seed: int, num_cold: int) -> str:
    return json.dumps(as_json_document(report(num_cold, num_warm=20, seed=seed)))


def document(seed: int, num_cold: int = 20, factor: float = 1.0):
    """A measured document, its cold starts from the region's store `factor` times as long."""
    value = json.loads(written(seed, num_cold))
    for request in value["requests"]:
        if request["found"] == "region":
            request["ttft_ms"] *= factor
    for row in value["rows"]:
        if row["start"] == "region" and row["ttft_ms"]["p50"]:
            row["ttft_ms"]["p50"] *= factor
    return value


def of(found, region, start, figure="ttft_ms"):
    return next(each for each in found if (each.region, each.start, each.figure) == (region, start, figure))


def test_the_same_run_has_not_changed():
    """Ratio one, and its interval holds one."""
    found = changes(document(1), document(1))

    assert all(change.ratio in {None, 1.0} and not change.is_clear for change in found)


def test_a_real_change_is_clear_and_has_a_direction():
    """A third slower shows as worse where it is, and as nothing elsewhere."""
    found = changes(document(1), document(2, factor=1.35))
    slower = of(found, "fra", "region")

    assert slower.is_worse
    assert slower.interval is not None
    assert slower.interval[0] < slower.ratio < slower.interval[1]
    faster = of(changes(document(1, factor=1.35), document(2)), "fra", "region")
    assert (faster.is_clear, faster.is_worse) == (True, False)


def test_chance_is_seldom_called_a_change():
    """Of many pairs that differ by chance alone few are called changed: 95 % intervals, not certainties."""
    rng = random.Random(2)

    def values():
        return sorted(rng.lognormvariate(0, 0.3) for _ in range(25))

    intervals = [ratio_interval(values(), values(), seed) for seed in range(120)]
    assert sum(not low <= 1 <= high for low, high in intervals) < 0.15 * len(intervals)


def test_few_requests_say_nothing():
    """Both are shown, no ratio is."""
    change = of(changes(document(1, num_cold=3), document(2)), "fra", "region")

    assert (change.num_before, change.ratio, change.interval) == (3, None, None)
    assert change.before is not None
    assert "too few" in comparison([change], [])


def failing(value, num_failed, start="warm", region="fra"):
    """The document with so many of a row's requests failed."""
    row = next(row for row in value["rows"] if (row["region"], row["start"]) == (region, start))
    row["num_failed"] = num_failed
    row["failures"] = {"HTTP 503": num_failed} if num_failed else {}
    value["checks"]["num_failed"] += num_failed
    return value


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [  # by hand: of 20 and 20, k failures all on one side have C(20, k) of C(40, k) ways, and as many on the other
        ((0, 20), (0, 20), 1.0),
        ((0, 20), (1, 20), 1.0),
        ((0, 20), (2, 20), 2 * 190 / 780),
        ((5, 20), (0, 20), 2 * 15504 / 658008),
        ((20, 20), (20, 20), 1.0),
        ((3, 10), (0, 0), 1.0),
        ((1, 9), (11, 12), (1 + 9 * 12) / 293930),  # none and one of the 9, of C(21, 12) ways
    ],
)
def test_the_chance_of_a_difference_is_fishers(before, after, expected):
    assert chance(before, after) == pytest.approx(expected, rel=0.01)
    assert chance(after, before) == pytest.approx(chance(before, after))


def test_failed_requests_are_told_where_there_are_any():
    """Few more are noise, many are worse, many fewer are better; rows without any are left out."""
    whole, few, many = document(1), failing(document(1), 1), failing(document(1), 8)
    assert failures(whole, document(2), keys(whole, whole)) == []

    (noise,) = failures(whole, few, keys(whole, few))
    assert (noise.region, noise.start, noise.failed_after, noise.asked_after) == ("fra", "warm", 1, 20)
    assert (noise.share_before, noise.share_after, noise.is_clear) == (0.0, 0.05, False)
    (worse,) = failures(whole, many, keys(whole, many))
    (better,) = failures(many, whole, keys(many, whole))
    assert (worse.is_worse, better.is_clear, better.is_worse) == (True, True, False)
    told = comparison([], [worse])
    assert "| fra | warm | failed requests | 0 of 20 (0.0%) | 8 of 20 (40.0%) | +40.0 points" in told
    assert "worse" in told


def test_a_row_that_one_report_lacks_has_no_share_there():
    before = document(1)
    before["rows"] = [row for row in before["rows"] if row["start"] != "warm"]
    after = failing(document(1), 3)
    (found,) = failures(before, after, keys(before, after))

    assert (found.share_before, found.asked_before, found.is_clear) == (None, 0, False)
    assert "in one report only" in comparison([], [found])


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("warm.failed_share > base", Exit.GATE_FAILED),
        ("fra.warm.failed_share > 39%", Exit.GATE_FAILED),
        ("fra.warm.failed_share > 40%", Exit.OK),
        ("iad.warm.failed_share > 0", Exit.OK),
        ("failed_share > base + 1%", Exit.GATE_FAILED),
        ("failed_share > 50%", Exit.OK),
    ],
)
def test_the_gate_takes_the_share_of_failures(tmp_path, condition, status):
    paths = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    for path, num in zip(paths, (0, 8), strict=True):
        (tmp_path / path).write_text(json.dumps(failing(document(1), num)))
    ended = CliRunner().invoke(app, ["report", "diff", *paths, "--fail-if", condition, "--json"])
    told = json.loads(ended.stdout)

    assert ended.exit_code == status, ended.output
    assert [each["failed_after"] for each in told["failures"]] == [8]
    assert breaches(told, OUTPUTS["report-diff"]) == []


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    paths = (folder / "a.json", folder / "b.json")
    for path, value in zip(paths, (document(1), document(2, factor=1.35)), strict=True):
        path.write_text(json.dumps(value))
    return [str(path) for path in paths]


def test_the_command_and_its_exit_status(files, tmp_path):
    """0 when nothing is forbidden, 6 when a forbidden thing is so, 2 when it cannot be read."""
    runner = CliRunner()
    shown = runner.invoke(app, ["report", "diff", *files, "--markdown", str(tmp_path / "c.md")])
    assert shown.exit_code == Exit.OK, shown.output
    assert "worse" in shown.output
    assert "| fra | region | time to first token |" in (tmp_path / "c.md").read_text()

    passed = runner.invoke(app, ["report", "diff", *files, "--fail-if", "region.p50 > 2*base"])
    failed = runner.invoke(app, ["report", "diff", *files, "--fail-if", "region.p50 > 1.1*base", "--json"])
    wrong = runner.invoke(app, ["report", "diff", *files, "--fail-if", "region.p50 >"])
    assert (passed.exit_code, failed.exit_code, wrong.exit_code) == (Exit.OK, Exit.GATE_FAILED, Exit.USAGE)
    told = json.loads(failed.stdout)
    assert any(verdict["holds"] for verdict in told["gate"])
    assert breaches(told, OUTPUTS["report-diff"]) == []


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema": "nearfield.report/1"}', "{" * 10_000])
def test_what_is_no_report_is_refused(files, tmp_path, content):
    """With the file's name, and exit status 2."""
    path = tmp_path / "other.json"
    path.write_text(content)
    refused = CliRunner().invoke(app, ["report", "diff", files[0], str(path)])

    assert refused.exit_code == Exit.USAGE
    assert "no report" in refused.output
