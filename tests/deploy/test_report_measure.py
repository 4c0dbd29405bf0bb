"""The report's client against an edge that keeps the contract."""

import json
from dataclasses import replace

import pytest

from deploy.report.arms import Start
from deploy.report.measure import ReportTarget, run_report
from deploy.report.out.values import as_json_document
from deploy.report.out.write import Outputs, write
from deploy.report.probe import StatusError
from tests.deploy.fake_edge import MODEL, WEIGHT_BYTES, FakeEdge

REGIONS = ("iad", "fra")


def target(edge: FakeEdge, num_cold: int = 2, num_warm: int = 4) -> ReportTarget:
    return ReportTarget(
        edge.base_url, edge.pins, edge.ca, "key", "admin", MODEL, tuple(edge.regions), num_cold, num_warm
    )


@pytest.fixture
async def edge(tmp_path):
    async with FakeEdge(tmp_path, REGIONS) as running:
        yield running


async def test_every_start_state_is_measured_where_it_exists(edge):
    """Each region has each start state as often as asked; the home region is never at origin."""
    said: list[str] = []
    report = await run_report(target(edge), said.append)

    found = {(row.region, row.start.value): row.num_asked for row in report.rows}
    assert found["iad", "region"] in {
        3,
        4,
    }  # its origin requests, until it was seen to be the home, found `region`
    del found["iad", "region"]
    assert found == {
        ("iad", "host"): 2,
        ("iad", "resident"): 2,
        ("iad", "warm"): 4,
        ("fra", "origin"): 2,
        ("fra", "region"): 2,
        ("fra", "host"): 2,
        ("fra", "resident"): 2,
        ("fra", "warm"): 4,
    }
    assert report.settings.home_regions == ("iad",)
    assert report.settings.simulated == ("WAN delay between edge and regions (us-eu-jp)",)
    assert len(said) == len(report.samples)
    assert report.revision == "ab" * 32


async def test_phases_account_for_the_wall_time(edge):
    """On a real connection the phases sum to the client's clock, and a wake is told by its parts."""
    report = await run_report(target(edge))

    row = report.row("fra", Start.REGION)
    assert row is not None
    assert row.typical is not None
    assert row.typical.before_first is not None
    phases = row.typical.before_first.phases_ms
    assert sum(phases.values()) == pytest.approx(row.typical.ttft_ms)
    assert {"start.fork", "start.fetch", "start.attach", "node.prefill", "net.client"} <= set(phases)
    assert phases["start.fetch"] > phases["start.fork"]
    assert report.worst_share is not None
    assert report.worst_share < 0.25  # a busy machine; the tolerance itself is checked on exact receipts
    assert row.typical.num_tokens == 3
    assert row.typical.num_prompt_tokens == 7


async def test_bytes_by_source_and_their_floor(edge):
    """Remote bytes show only at origin; the floor is bytes over the bandwidth that the regions measured."""
    report = await run_report(target(edge))

    origin, region, warm = (report.row("fra", s) for s in (Start.ORIGIN, Start.REGION, Start.WARM))
    assert origin is not None
    assert region is not None
    assert warm is not None
    assert origin.most_remote_bytes == WEIGHT_BYTES
    assert region.most_remote_bytes == 0
    assert region.floor_ms == pytest.approx(WEIGHT_BYTES / 1.4e9 * 1000)
    assert origin.floor_ms == pytest.approx((WEIGHT_BYTES / 2e7 + WEIGHT_BYTES / 1.4e9) * 1000)
    assert warm.floor_ms is None


async def test_failures_are_counted_and_told(edge, tmp_path):
    """A request that is refused is a row's failure in every output."""
    edge.regions["fra"].refuse_every = 3
    report = await run_report(target(edge))

    assert report.num_failed > 0
    failed = [sample for sample in report.samples if sample.failure]
    assert {sample.region for sample in failed} == {"fra"}
    assert all(sample.failure == "503 model_not_ready: It did not start." for sample in failed)
    write(report, Outputs(html=tmp_path / "r.html", json=tmp_path / "r.json"))
    value = json.loads((tmp_path / "r.json").read_text())
    assert value["checks"]["num_failed"] == report.num_failed
    assert sum(row["num_asked"] for row in value["rows"]) == len(report.samples)
    assert "It did not start." in (tmp_path / "r.html").read_text()


async def test_a_state_that_cannot_be_set_is_a_failure(edge):
    """Refused admin calls do not end the run."""
    report = await run_report(
        replace(target(edge), regions=("iad",), model=MODEL), lambda _: edge.regions.pop("iad", None)
    )

    assert report.num_failed > 0
    assert any("state not set" in (sample.failure or "") for sample in report.samples)


@pytest.mark.parametrize("kind", ["embed", "rerank"])
async def test_what_is_not_streamed_is_measured_by_its_whole_answer(tmp_path, kind):
    """Vectors and scores: their phases come from Server-Timing."""
    async with FakeEdge(tmp_path, REGIONS, kind=kind) as edge:
        report = await run_report(target(edge, num_cold=1, num_warm=3))

    row = report.row("fra", Start.WARM)
    assert row is not None
    assert row.typical is not None
    assert row.typical.before_first is not None
    assert row.typical.ttft_ms == row.typical.e2e_ms
    assert "node.prefill" in row.typical.before_first.phases_ms
    assert report.settings.kind == kind
    assert row.typical.num_bytes == {"remote": 0}  # of the others nothing is said, so nothing is claimed
    region = report.row("fra", Start.REGION)
    assert region is not None
    assert region.floor_ms is None


async def test_the_order_is_the_seeds(edge):
    """The same seed measures in the same order, another seed in another."""
    first = await run_report(target(edge, num_cold=1, num_warm=0))
    again = await run_report(target(edge, num_cold=1, num_warm=0))
    other = await run_report(replace(target(edge, num_cold=1, num_warm=0), seed=5))

    orders = [[(s.region, s.wanted) for s in report.samples] for report in (first, again, other)]
    assert orders[0] == orders[1] != orders[2]


async def test_a_platform_that_does_not_know_the_key(edge):
    """Nothing is measured when the status cannot be read."""
    with pytest.raises(StatusError, match="invalid_api_key"):
        await run_report(replace(target(edge), admin_key="wrong"))


async def test_a_platform_that_is_not_there(edge):
    """The error names the cause."""
    with pytest.raises(StatusError, match="status cannot be read"):
        await run_report(replace(target(edge), admin_url="https://127.0.0.1:1"))


async def test_keys_stay_out_of_every_output(edge, tmp_path):
    """Neither the document nor the page nor a repr holds a key."""
    asked = replace(target(edge, num_cold=1, num_warm=1), api_key="sk-secret-1")
    report = await run_report(asked)
    write(report, Outputs(html=tmp_path / "r.html"))

    assert "sk-secret-1" not in repr(asked)
    assert "sk-secret-1" not in json.dumps(as_json_document(report)) + (tmp_path / "r.html").read_text()
