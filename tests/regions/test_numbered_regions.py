"""Whole regions on a store of somebody else, without feed and without If-Match on PUT (such as OpenStack Swift)."""

import pytest

from regions.objects.changes import ListFeed
from regions.objects.ledger import Ledger
from regions.objects.numbered import GENERATIONS, Numbered
from regions.objects.register import Found
from tests.regions.fake_store import FakeStore
from tests.regions.made_region import MODEL, STRIDE, Made
from tests.regions.pretend_node import FakeNode
from tests.regions.test_controller_kills import V1, V2, every_kill, settled
from tests.regions.test_ingest_pushes import with_manifest

THEIRS = {"feed": False, "replaces": False}
PROBE_OPS = 40  # of a start; nothing of a model is done before
KILLS = range(PROBE_OPS, 500, 3 * STRIDE)  # each start costs a probe here
POINTER = f"models/{MODEL}.json"


@pytest.fixture(autouse=True)
def quick_listings(monkeypatch):
    monkeypatch.setattr(ListFeed.__init__, "__defaults__", (0.005,))


async def pointer_of(disk):
    found = await Ledger(FakeStore(disk, **THEIRS)).pointer(MODEL)
    return found and found[0]


async def test_a_model_is_pushed_overwritten_removed_and_pushed_again_in_two_regions():
    home = Made("iad", **THEIRS)
    fra = Made("fra", home=home, **THEIRS)
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        first = await home.until_live()
        assert await fra.until_live(first) == first
        assert (await pointer_of(home.disk)).revision == first

        with_manifest(home.disk, V2)
        await fra.until(lambda: fra.live() not in {None, first}, "second")
        second = fra.live()
        assert (await pointer_of(home.disk)).previous == (first,)

        store = FakeStore(home.disk, **THEIRS)
        await Found(store, Numbered(store, settle_s=0.0)).clear(POINTER)
        for key in home.disk.keys("models"):
            home.disk.delete("models", key)
        await fra.until(lambda: fra.find() is None, "gone")
        await home.until(lambda: home.find() is None, "gone")
        assert await pointer_of(home.disk) is None

        with_manifest(home.disk, V2)
        assert await fra.until_live(second) == second


async def test_the_policy_is_signed_once_for_all_keys_and_copied():
    home = Made("iad", **THEIRS)
    fra = Made("fra", home=home, **THEIRS)
    async with home.running(), fra.running():
        await fra.until(lambda: fra.deployments.policy_line, "policy")
        assert fra.deployments.policy_line == home.deployments.policy_line
    signed = home.disk.keys("nearfield-system", f"{GENERATIONS}policy.json/")
    async with home.again().running() as again:
        await again.until(lambda: again.deployments.policy_line, "policy")
    assert home.disk.keys("nearfield-system", f"{GENERATIONS}policy.json/") == signed


async def test_the_home_is_killed_anywhere_in_a_second_push():
    home = Made("iad", **THEIRS)
    async with home.running():
        with_manifest(home.disk, V1)
        first = await home.until_live()
        await home.until(lambda: home.system(f"judged/{MODEL}.json"), "written down")
        await home.until(lambda: (home.status() or {}).get("state") == "live", "told")
    other = Made("iad", home.disk.copied(), **THEIRS)
    async with other.running():
        with_manifest(other.disk, V2)
        await other.until(lambda: other.live() not in {None, first}, "second")
        after = other.live()

    async def prepare():
        return lambda make: make("iad", home.disk.copied(), node=FakeNode(), **THEIRS)

    def check(again):
        assert again.live() in {first, after}, "something serves at once after every kill"

    def act(made):
        with_manifest(made.disk, V2)

    num_ops = await every_kill(prepare, act, lambda made: settled(made, after), check, 4, KILLS)
    assert num_ops > PROBE_OPS + 30
