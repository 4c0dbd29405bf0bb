"""New rules: the operator's object, tried at the canary edges first, in force for all or withdrawn with the reason."""

import asyncio
import json
from dataclasses import replace

import pytest

from edge.rows.trial import harm
from regions.map.policy import Canary, PolicyRow, Rules, Trial
from regions.map.region import Tier
from regions.places import regions_of, resident
from regions.rollout.trial import SILENT_S, Report, judged
from regions.rows import Heard, Snapshot
from regions.rules import Ordered, RulesError, read_rules, written
from tests.regions.made import model_row, region_row
from tests.regions.made_region import Made, put_key, put_rules

FLEET = ("iad", "fra", "nrt")
AREAS = {"eu": ("fra",)}
NEW = Rules(areas=AREAS, residency={"acme/*": ("eu",)})
ORDER = Ordered(NEW, ("edge-1", "edge-2"), trial_s=10.0)


def begun(last=None):
    last = last or PolicyRow(1, 5)
    found = judged(last, ORDER, {}, 0.0)
    return replace(last, seq=6, rules=found.rules, trial=found.trial, withdrawn=found.withdrawn)


def reports(serial=6, stood_s=10.0, harm=""):
    return {edge: Report(edge, serial, stood_s, harm) for edge in ORDER.canary_edges}


def test_rules_are_in_force_at_the_canary_edges_first():
    row = begun()

    assert row.rules == Rules()
    assert row.trial == Trial(6, NEW, ("edge-1", "edge-2"), 10.0)
    assert row.rules_at("edge-1") == NEW
    assert row.rules_at("edge-3") == Rules()
    assert judged(row, ORDER, {}, 1.0).trial == row.trial, "it goes on"


def test_rules_that_stood_are_in_force_for_all():
    row = begun()

    assert judged(row, ORDER, reports(stood_s=9.9), 10.0).trial == row.trial
    one = {**reports(), "edge-2": Report("edge-2", 5, 99.0, "")}  # of another trial
    assert judged(row, ORDER, one, 10.0).trial == row.trial
    found = judged(row, ORDER, reports(), 10.0)
    assert (found.rules, found.trial, found.withdrawn) == (NEW, None, "")


@pytest.mark.parametrize(
    ("said", "waited_s", "why"),
    [
        (reports(stood_s=1.0, harm="acme/m is nowhere"), 1.0, "edge-1: acme/m is nowhere"),
        ({}, 11 + SILENT_S, "nothing"),
    ],
)
def test_rules_that_harm_or_silence_an_edge_are_withdrawn_until_they_are_changed(said, waited_s, why):
    row = begun()
    found = judged(row, ORDER, said, waited_s)
    assert (found.rules, found.trial) == (Rules(), None)
    assert why in found.withdrawn
    after = replace(row, trial=None, withdrawn=found.withdrawn)
    assert judged(after, ORDER, reports(), 99.0) == found, "not tried again"
    other = replace(ORDER, rules=replace(NEW, drained=("nrt",)))
    assert judged(after, other, {}, 0.0).trial.rules == other.rules
    assert judged(after, replace(ORDER, rules=Rules()), {}, 0.0).withdrawn == ""


def test_without_canary_edges_rules_are_for_all_at_once():
    assert judged(PolicyRow(1, 1), Ordered(NEW), {}, 0.0).rules == NEW


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"areas": {"eu": ["mars"]}}, "mars"),
        ({"areas": {"fra": ["iad"]}}, "has the name of a region"),
        ({"areas": {"any": ["iad"]}}, "has the name"),
        ({"areas": {"eu": []}}, "places"),
        ({"residency": {"acme/*": ["asia"]}}, "asia"),
        ({"residency": {"everyone": ["iad"]}}, "no model"),
        ({"aliases": {"a": "b"}}, "names no model"),
        ({"aliases": {"x/y": "a/b", "a/b": "c/d"}}, "an alias itself"),
        ({"drained": ["mars"]}, "mars"),
        ({"canary": {"regions": ["mars"]}}, "mars"),
        ({"canary": {"bake_s": -1}}, "bake_s"),
        ({"canary": 3}, "no object"),
        ({"extra": 1}, "extra"),
        ({"schema": "other"}, "schema"),
    ],
)
def test_rules_that_mean_nothing_are_refused(change, why):
    with pytest.raises(RulesError, match=why):
        read_rules(json.dumps({"schema": "nearfield.rules/1", **change}).encode(), FLEET)


def test_rules_come_back_as_they_were_written():
    ordered = Ordered(replace(NEW, aliases={"gpt": "acme/m"}), ("e",), 3.0, Canary(("fra",), 4.0))

    assert read_rules(written(ordered), FLEET) == ordered
    assert read_rules(b'{"schema":"nearfield.rules/1"}', FLEET) == Ordered()


def test_places_are_regions_areas_or_all_and_every_residency_holds():
    rules = Rules(areas={"eu": ("fra", "ams")}, residency={"acme/*": ("eu",), "tenant:t": ("fra", "iad")})

    assert regions_of(("eu", "nrt"), rules.areas) == {"fra", "ams", "nrt"}
    assert regions_of(("nrt", "any"), rules.areas) is None
    assert resident(rules, "", "other/m", ()) is None
    assert resident(rules, "", "acme/m", ()) == {"fra", "ams"}
    assert resident(rules, "t", "acme/m", ()) == {"fra"}
    assert resident(rules, "t", "acme/m", (("iad",),)) == set()
    assert resident(rules, "", "other/m", (("any",), ("eu",))) == {"fra", "ams"}


def snapshot(**models):
    return Snapshot({name: Heard(region_row(name, models=each), b"", 0.0) for name, each in models.items()})


def test_an_edge_sees_whom_new_rules_would_leave_unserved():
    row = model_row(tier=Tier.RESIDENT)
    known = snapshot(iad={"acme/m": row, "b/n": row}, fra={"b/n": row})
    empty = Rules(areas=AREAS)

    assert harm(empty, replace(empty, residency={"b/n": ("eu",)}), known) == ""
    assert "acme/m" in harm(empty, replace(empty, residency={"acme/*": ("eu",)}), known)
    assert "acme/m" in harm(empty, replace(empty, residency={"tenant:x": ("eu",)}), known)
    kept = replace(empty, residency={"acme/*": ("eu",)})
    assert harm(kept, replace(kept, drained=("iad",)), known) == "", "it was so before"
    assert harm(empty, replace(empty, drained=("iad", "fra")), known) == "every region is drained"
    assert "gpt" in harm(empty, replace(empty, aliases={"gpt": "no/model"}), known)
    assert harm(empty, replace(empty, aliases={"gpt": "b/n"}), known) == ""


async def test_the_home_region_tries_rules_at_the_canary_edges_and_a_key_does_not_wait():
    home = Made("iad")
    fra = Made("fra", home=home)
    async with home.running(), fra.running():
        await fra.until(lambda: fra.region.policy.row, "a policy")
        canary = {"edges": ["edge-1"], "trial_s": 0.05}
        put_rules(home.disk, areas=AREAS, canary=canary)
        await fra.until(lambda: fra.region.policy.row.trial, "on trial, and passed on")
        serial = fra.region.policy.row.trial.serial
        put_key(home.disk, "b" * 64)
        await fra.until(lambda: len(fra.region.policy.row.keys) == 2, "a new key is for all edges at once")
        assert fra.region.policy.row.trial is not None
        assert fra.region.policy.row.rules == Rules()
        home.deployments.reports["edge-1"] = Report("edge-1", serial, 1.0, "")
        await fra.until(lambda: fra.region.policy.row.rules.areas == AREAS, "in force")

        put_rules(home.disk, areas=AREAS, drained=["iad"], canary=canary)
        await fra.until(lambda: fra.region.policy.row.trial, "the next trial")
        serial = fra.region.policy.row.trial.serial
        home.deployments.reports["edge-1"] = Report("edge-1", serial, 0.0, "no region is left")
        await fra.until(lambda: fra.region.policy.row.withdrawn, "withdrawn")
        assert "no region is left" in fra.region.policy.row.withdrawn
        assert fra.region.policy.row.rules.drained == ()


async def test_rules_that_cannot_be_read_leave_those_in_force():
    home = Made("iad")
    put_rules(home.disk, areas=AREAS)
    async with home.running():
        await home.until(lambda: home.region.policy.row, "a policy")
        home.disk.put("nearfield-system", "rules.json", b"{half")
        put_key(home.disk, "b" * 64)
        await home.until(lambda: len(home.region.policy.row.keys) == 2, "keys go on")
        assert home.region.policy.row.rules.areas == AREAS
    again = home.again()
    async with again.running():
        put_key(again.disk, "c" * 64)
        await again.until(lambda: len(again.region.policy.row.keys) == 3, "keys go on after a restart")
        await asyncio.sleep(0)
        assert again.region.policy.row.rules.areas == AREAS


async def test_a_clock_that_was_set_back_does_not_make_a_regions_rows_older(monkeypatch):
    made = Made("iad")
    first = await made.region.epoch_ms()
    monkeypatch.setattr("regions.assembly.time.time", lambda: first / 1000 - 86_400)
    assert await made.again().region.epoch_ms() == first + 1
    made.disk.put("nearfield-system", "local/epoch", b"garbage")
    assert await made.again().region.epoch_ms() == first - 86_400_000
