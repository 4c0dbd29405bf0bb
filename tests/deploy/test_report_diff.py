"""Two reports side by side: a real change is clear, chance is not, few requests say nothing; and the exit status."""

import json
import random
from functools import cache

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.exits import Exit
from deploy.report.gate.diff import changes
from deploy.report.out.markdown import comparison
from deploy.report.out.values import as_json_document
from deploy.report.stats import ratio_interval
from deploy.schemas.outputs import OUTPUTS
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
    assert "too few" in comparison([change])


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
