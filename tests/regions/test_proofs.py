"""A revision goes live with its proof on record, or not at all; the record outlives kills and a home that is away."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from regions.map.region import ModelFault
from regions.nodes.answers import LoadLine, NodeError
from regions.nodes.client import Node
from regions.nodes.probes import is_steady
from regions.objects.pointer import PointerError
from regions.objects.proof import Proof, Proving
from tests.regions.fake_node import TOKEN, FakeNode
from tests.regions.fake_node import revision as made_revision
from tests.regions.folders import whole
from tests.regions.made_region import MODEL, Made, put_rules
from tests.regions.pretend_node import failure
from tests.regions.test_ingest_pushes import with_manifest

V1, V2 = (whole(fill=bytes([n])) for n in (1, 2))
REVISION = "ab" * 32
READY = LoadLine("ready", 100.0, start="region", bytes={"region": 16}, phases={"fetch": 3.0}, total_ms=5.0)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def proven(clock, *steps):
    """A proving that went through these steps, each a second and a half after the one before."""
    proving = Proving(MODEL, REVISION, "iad", clock)
    for step in steps:
        clock.now += 1.5
        step(proving)
    return proving


def proof_of(home, region="iad", revision=None):
    return home.system(f"proofs/{revision or home.live()}/{region}.json")


@asynccontextmanager
async def two(bake_s=0):
    home = Made("iad")
    put_rules(home.disk, canary={"bake_s": bake_s})
    fra = Made("fra", home=home)
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        await fra.until_live(await home.until_live())
        yield home, fra


def test_cold_is_from_the_order_to_the_first_answer_and_warm_the_second_alone():
    clock = Clock()
    proving = proven(
        clock,
        lambda it: it.heard(LoadLine("fetch", 50.0)),
        lambda it: it.heard(READY),
        Proving.answered,
        Proving.answered,
    )
    proving.brought(7)
    proof = proving.passed(1_700_000_000.9)

    assert (proof.cold_s, proof.warm_s, proof.start, proof.at_s) == (4.5, 1.5, "region", 1_700_000_000)
    assert proof.phases == {"fetch": 3.0, "answer": 1500.0}
    assert proof.bytes == {"region": 16, "origin": 7}
    assert proof.remote_bytes == 7
    assert Proof.from_json(proof.to_json()) == proof


def test_what_failed_says_how_far_it_came_and_why():
    proof = proven(Clock(), lambda it: it.heard(READY)).failed(
        7, ModelFault("probe_failed", "no token", "try")
    )

    assert (proof.ok, proof.cold_s, proof.warm_s, proof.start) == (False, None, None, "region")
    assert Proof.from_json(proof.to_json()).fault == ModelFault("probe_failed", "no token", "try")


@pytest.mark.parametrize(
    ("start", "was_ok", "kept_cold_s"),
    [("resident", True, 9.0), ("region", True, 1.0), ("resident", False, 1.0)],
)
def test_a_boot_that_found_a_process_keeps_the_cold_figures_that_are_known(start, was_ok, kept_cold_s):
    before = Proof(MODEL, REVISION, "iad", 1, ok=was_ok, start="region", cold_s=9.0, warm_s=0.3)
    now = Proof(MODEL, REVISION, "iad", 2, ok=True, start=start, cold_s=1.0, warm_s=0.2)

    assert (now.over(before).cold_s, now.over(before).warm_s, now.over(before).at_s) == (kept_cold_s, 0.2, 2)
    assert now.over(None) == now


@pytest.mark.parametrize(
    "damage",
    [{"ok": 1}, {"revision": "x"}, {"cold_s": -1}, {"bytes": {"a": 1.5}}, {"phases": [1]}, {"more": 1}],
)
def test_bytes_that_are_no_proof_are_refused(damage):
    value = Proof(MODEL, REVISION, "iad", 1, ok=True).as_value()

    with pytest.raises(PointerError):
        Proof.from_json(json.dumps({**value, **damage}).encode())


@pytest.mark.parametrize(
    ("cold", "warm", "same"),
    [
        (" a", " a", True),
        (" a", " b", False),
        ((1.0, 0.0), (1.0, 0.001), True),
        ((1.0, 0.0), (0.0, 1.0), False),
        ((1.0, 0.0), (1.0,), False),
        ((0.5,), (0.505,), True),
        ((0.5,), (0.9,), False),
        ((float("nan"), 0.0), (float("nan"), 0.0), False),
    ],
)
def test_two_answers_to_one_question_are_the_same_but_for_rounding(cold, warm, same):
    assert is_steady(cold, warm) is same


async def test_a_revision_is_live_with_its_proof_on_record_and_on_one_boot():
    home = Made("iad")
    seen = []
    home.own.before = lambda op, bucket, key: seen.append((key.partition("/")[0], home.live() is not None))
    async with home.running():
        with_manifest(home.disk, V1)
        revision = await home.until_live()

        found = proof_of(home)
        assert (found["ok"], found["start"], found["revision"]) == (True, "region", revision)
        assert found["warm_s"] is not None
        assert found["cold_s"] is not None
        assert ("proofs", False) in seen, "written before it was live"
        assert len(home.node.loads) == 1
        assert len(home.node.probes) == 2


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (lambda node: node.probe_errors.append(failure("poisoned")), "poisoned"),
        (lambda node: node.said.extend([" one", " two"]), "probe_unsteady"),
        (lambda node: node.load_errors.extend([failure("engine_failed", passing=True)] * 3), "engine_failed"),
        (
            lambda node: node.probe_errors.extend([failure("probe_timeout", passing=True)] * 3),
            "probe_timeout",
        ),
    ],
    ids=["NaN", "wrong tokens", "crash", "timeout"],
)
async def test_what_fails_its_probes_is_refused_on_record_and_the_one_before_serves(
    script, code, monkeypatch
):
    monkeypatch.setattr("regions.rollout.works.PAUSE_S", 0.01)
    async with two() as (home, fra):
        first = home.live()
        script(home.node)
        with_manifest(home.disk, V2)
        await fra.until(fra.error, "refused everywhere")

        second = home.pointer()["revision"]
        assert (home.live(), fra.live()) == (first, first)
        assert home.error().code == code
        assert home.error().next, "the next step is said, even where the node said none"
        found = proof_of(home, revision=second)
        assert (found["ok"], found["fault"]["code"]) == (False, code)
        assert proof_of(home)["ok"], "of the one that serves"
        with_manifest(home.disk, V2)
        await fra.until_live(second)
        assert proof_of(home)["ok"], "the same push again is proven again"


async def test_proofs_of_all_regions_are_at_home_and_go_with_the_revision():
    async with two() as (home, fra):
        first = home.live()
        assert proof_of(home, "fra")["bytes"]["origin"] == sum(len(each) for each in V1.values())
        assert proof_of(home, "iad")["bytes"]["origin"] == 0
        home.disk.delete("nearfield-system", f"models/{MODEL}.json")
        await home.until(lambda: proof_of(home, revision=first) is None, "gone")
        assert home.disk.keys("nearfield-system", "proofs/") == []
        assert fra.disk.keys("nearfield-system", "local/proofs/") == []


async def test_a_proof_that_home_cannot_take_waits_in_the_region_beyond_a_kill():
    home = Made("iad")
    fra = Made("fra", home=home)
    fra.node.on_load = lambda: setattr(fra.home, "offline", True)
    async with home.running():
        async with fra.running():
            with_manifest(home.disk, V1)
            revision = await fra.until_live(await home.until_live())
            assert fra.system(f"local/proofs/{revision}.json")["ok"]
            assert proof_of(home, "fra", revision) is None
        async with fra.again().running():
            await home.until(lambda: proof_of(home, "fra", revision), "told after all")
            await fra.until(
                lambda: not fra.disk.keys("nearfield-system", "local/proofs/"), "no longer awaited"
            )


@pytest.mark.parametrize(("is_silent", "code"), [(True, "probe_timeout"), (False, "node_unreachable")])
async def test_a_model_that_does_not_answer_is_told_from_a_node_that_is_away(is_silent, code, monkeypatch):
    monkeypatch.setattr("regions.nodes.client.PROBE_S", 0.05)
    fake = await FakeNode().start()
    found = made_revision()
    fake.resident.add(found.id)
    never = asyncio.Event()
    fake.answer = lambda exchange, question: never.wait()
    node = Node(fake.address, TOKEN)
    if not is_silent:
        await fake.server.close()
    with pytest.raises(NodeError) as told:
        await node.probe(found)

    assert told.value.fault.code == code
    assert told.value.passing, "it may be a kill's: tried again, some times"
    await node.close()
    await fake.server.close()
