"""The further arms: what they ask, what they make of it, and the price file."""

import random
import re
from dataclasses import replace

import pytest
import typer

from deploy.commands.report import priced
from deploy.prices.book import NO_SOURCE, PricesError
from deploy.prices.reading import SHIPPED, load
from deploy.report.arms import Start
from deploy.report.arrivals import arrivals, default_rate
from deploy.report.measure import ReportTarget, run_report
from deploy.report.more.found import Herd
from deploy.report.more.money import comparisons
from deploy.report.more.places import UnknownDistance, added_ms
from deploy.report.more.terms import load_terms
from deploy.report.more.wanted import GAPS_S, HERD, More, Wanted, parse
from deploy.report.out.values import as_json_document
from deploy.report.page.html import page
from deploy.report.sample import Eta, failed
from deploy.trust.credentials import Credentials
from tests.deploy.fake_edge import MODEL, FakeEdge
from tests.deploy.report_samples import full_report, sample, split


def test_arms_are_named():
    """None unless asked for; a size names its arm; mistakes are said."""
    assert parse("") == Wanted()
    assert parse("all").arms == frozenset(More)
    assert parse("places, gaps").arms == {More.PLACES, More.GAPS}
    assert (parse("", herd=4).herd, More.HERD in parse("", herd=4)) == (4, True)
    assert parse("gaps").gaps_s == GAPS_S
    assert parse("", gaps="0,60").gaps_s == (0.0, 60.0)
    assert parse("herd").herd == HERD
    for names, gaps in (("plaices", None), ("", "nan"), ("", "-1"), ("", "x"), ("", "1e9")):
        with pytest.raises(ValueError, match=r"arm|seconds|float"):
            parse(names, gaps=gaps)


def test_arrivals_are_of_their_own():
    """Poisson: the mean gap is what was asked for, and as many as expected are shorter than it."""
    due = [*arrivals(4000, 50.0, random.Random(3))]
    gaps = [b - a for a, b in zip([0.0, *due], due, strict=False)]

    assert due == sorted(due)
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 50, rel=0.1)
    assert sum(gap < 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(1 - 2.718281828**-1, abs=0.04)
    assert due == [*arrivals(4000, 50.0, random.Random(3))]
    assert default_rate(100.0) == 10.0


def test_distances_of_clients():
    """With one edge at home the way to it is added, else the whole way; an unknown distance is said."""
    distances = {frozenset({"iad", "fra"}): 90.0}

    assert added_ms("fra", "fra", None, distances) == 0.0
    assert added_ms("iad", "fra", None, distances) == 90.0
    assert added_ms("fra", "fra", "iad", distances) == 90.0
    assert added_ms("iad", "fra", "iad", distances) == 0.0
    with pytest.raises(UnknownDistance, match="nrt"):
        added_ms("nrt", "fra", None, distances)


def test_a_herds_starts_are_counted_by_what_their_host_measured():
    """Each of one start's requests waited a time of its own; its bytes count once, and a warm request has none."""
    rng = random.Random(1)
    first, other = (sample("iad", Start.REGION, rng) for _ in range(2))
    later = replace(first, eta=Eta(100.0, 80.0), ttft_ms=200.0)
    herd = Herd("iad", (first, later, sample("iad", Start.WARM, rng)))

    assert first.eta != later.eta
    assert len(herd.starts) == 1
    assert sum(herd.num_bytes.values()) == sum(first.num_bytes.values()) > 0
    assert len(replace(herd, samples=(first, other)).starts) == 2


def test_a_further_arms_failures_are_the_reports():
    """A herd that was not answered fails the report, its gate and its badge, though no row has it."""
    whole = full_report()
    herd = Herd("fra", (failed("fra", Start.REGION, "no answer"),) * 4)
    torn = replace(whole, more=replace(whole.more, herd=herd))

    assert whole.num_failed == 0
    assert torn.num_failed == as_json_document(torn)["checks"]["num_failed"] == 4
    assert torn.num_asked == len(torn.samples) + len(torn.more.samples)
    assert f"4 of {torn.num_asked} requests failed" in page(torn)


def test_the_bill():
    """Measured for this model, computed for larger ones; with the store elsewhere each byte is paid and waited for."""
    terms = load_terms()
    measured, *computed = comparisons(split(), terms)

    assert (measured.together.is_measured, measured.together.remote_bytes) == (True, 0.0)
    assert measured.apart.cold_s > measured.together.cold_s
    assert measured.apart.remote_bytes == split().weight_bytes
    assert [each.weights for each in computed] == [*terms.scale.models]
    for each, num_bytes in zip(computed, terms.scale.models.values(), strict=True):
        more = num_bytes - split().weight_bytes
        assert each.apart.cold_s == pytest.approx(measured.apart.cold_s + more / split().bytes_per_s)
        device = terms.device_hour * each.apart.cold_s / 3600
        egress = num_bytes / 1e9 * terms.prices.egress_gb
        assert each.apart.cost == pytest.approx(terms.scale.num_cold_starts * (device + egress))
    assert comparisons(replace(split(), apart=replace(split().apart, samples=())), terms) == []


def test_prices_say_their_sources():
    """The shipped file is whole; every figure names where it is from, and of when that is."""
    terms, book = load_terms(), load(SHIPPED)

    assert terms.rtt_ms[frozenset({"iad", "fra"})] == 90.0
    assert len(terms.sources) == 4
    assert NO_SOURCE not in " ".join(terms.sources)
    assert set(book.sources) == {
        "storage_gb_month",
        "egress_gb",
        "same_region_gb",
        "devices.cpu",
        "devices.cuda",
        "rtt_ms",
    }
    assert [name for name, source in book.sources.items() if not re.search(r"\b20\d\d\b", source)] == []
    assert terms.cost(1e9, 3600.0, apart=True) == pytest.approx(1.25 + 0.02)
    assert terms.cost(1e9, 0.0, apart=False) == 0.0


def test_the_plans_file_serves_the_report(tmp_path):
    """What is only the report's comes from the shipped file; whose figures are whose is said."""
    path = tmp_path / "prices.toml"
    path.write_text('currency = "EUR"\negress_gb = 0.5\ndevices = {cuda = 4}\n[regions.fra]\negress_gb = 9\n')
    terms = load_terms(path, ("iad", "fra"))

    assert terms.cost(2e9, 3600.0, apart=True) == pytest.approx(1.0 + 4.0)
    assert (terms.currency, terms.scale, terms.rtt_ms) == ("EUR", load_terms().scale, load_terms().rtt_ms)
    assert terms.sources[0] == f"a GB out of the store's region: 0.5 EUR ({NO_SOURCE})"
    assert terms.sources[3] == load_terms().sources[3]
    assert load(path).of("fra").moved(1e9) == 9.0
    with pytest.raises(PricesError, match=r"unknown key `regions\.fra`"):
        load_terms(path, ("iad",))


def test_the_state_folders_file_is_the_usual_one(tmp_path):
    """As for a plan; list prices only where there is none."""
    credentials = Credentials(*[""] * 8, state=str(tmp_path), regions={"iad": ""})
    assert priced(credentials, None) == load_terms()
    (tmp_path / "prices.toml").write_text('currency = "EUR"\ndevices = {cuda = 4}\n')

    assert priced(credentials, None).currency == "EUR"
    assert priced(credentials, SHIPPED).currency == "USD"
    with pytest.raises(typer.BadParameter, match="cannot read"):
        priced(credentials, tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("egress_gb = 0.02", "egress_gb = -1", "0 or more"),
        ("egress_gb = 0.02", "egress_gb = nan", "0 or more"),
        ("[report]", "[reports]", "did you mean `report`"),
        ('"iad-fra" = 90', '"iad" = 90', "two regions"),
        ('device = "cuda"', 'device = "tpu"', "no price for `tpu`"),
        ('currency = "USD"', "currency = 1", "must be a string"),
        ("[devices]", "[devices", "is not TOML"),
    ],
)
def test_a_wrong_price_file_is_refused(tmp_path, old, new, why):
    """With the key that is wrong."""
    path = tmp_path / "prices.toml"
    path.write_text(SHIPPED.read_text().replace(old, new, 1))

    with pytest.raises(PricesError, match=why):
        load_terms(path)


async def test_the_arms_against_an_edge(tmp_path):
    """Places, herd, gaps and sizes are asked of a platform; what cannot be run is said and the rest stands."""
    async with FakeEdge(tmp_path, ("iad", "fra")) as edge:
        wanted = replace(parse("places,herd,gaps,sizes,split", herd=6, gaps="0,0.01"), num_each=2)
        terms = replace(load_terms(), rtt_ms={frozenset({"iad", "fra"}): 20.0})
        target = ReportTarget(
            edge.base_url,
            edge.pins,
            edge.ca,
            "key",
            "admin",
            MODEL,
            ("iad", "fra"),
            1,
            3,
            more=wanted,
            terms=terms,
        )
        report = await run_report(target)

    more = report.more
    assert more.failures == {}
    assert more.split is None  # it needs the platform's own credentials
    assert [(p.client, p.region, len(p.samples)) for p in more.places] == [
        (client, region, 2) for client in ("iad", "fra") for region in ("iad", "fra")
    ]
    near, far = (p for p in more.places if p.region == "iad")
    assert (near.added_ms, far.added_ms) == (0.0, 20.0)
    assert min(s.ttft_ms for s in far.samples) >= 20.0
    assert all(s.failure is None for s in near.samples)
    assert more.herd is not None
    assert (more.herd.region, len(more.herd.samples)) == ("fra", 6)
    assert [(gap.gap_s, len(gap.samples)) for gap in more.gaps] == [(0.0, 2), (0.01, 2)]
    assert [(load.model, len(load.samples)) for load in more.loads] == [(MODEL, 2)]
    assert all(s.failure is None for s in more.samples)


async def test_an_arm_that_cannot_run_is_said(tmp_path):
    """A region of which nobody knows how far it is."""
    async with FakeEdge(tmp_path, ("xyz", "fra")) as edge:
        pins = ("xyz", "fra")
        target = ReportTarget(
            edge.base_url, edge.pins, edge.ca, "key", "admin", MODEL, pins, 1, 1, more=parse("places")
        )
        report = await run_report(target)

    assert "no distance between fra and xyz" in report.more.failures["places"]
    assert report.num_failed == 0


async def test_warm_requests_do_not_wait_for_one_another(tmp_path):
    """Offered faster than they are answered they overlap, and each clock starts when its request was due."""
    async with FakeEdge(tmp_path, ("iad",)) as edge:
        target = ReportTarget(
            edge.base_url, edge.pins, edge.ca, "key", "admin", MODEL, ("iad",), 1, 20, rate=2000.0
        )
        report = await run_report(target)
        most_at_once = edge.regions["iad"].most_at_once

    warm = [s for s in report.samples if s.wanted is Start.WARM]
    assert len(warm) == 20
    assert report.settings.warm_per_s == {"iad": 2000.0}
    assert all(s.late_ms >= 0 for s in warm)
    assert most_at_once > 1
    for s in warm:
        assert sum(s.before_first.phases_ms.values()) == pytest.approx(s.ttft_ms)


def test_a_full_report_is_whole():
    """The samples for tests have every arm."""
    more = full_report().more

    assert all([more.places, more.herd, more.gaps, more.loads, more.ceilings, more.split])
