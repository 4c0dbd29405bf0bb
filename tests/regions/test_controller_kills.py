"""`kill -9` of a region between any two operations on its stores: a restart serves at once, and gets there.

One process is let live for exactly N operations, for every N (each fourth in `make test`) until it ends by itself.
"""

import asyncio

from blake3 import blake3

from tests.regions.folders import whole
from tests.regions.made_region import MODEL, STRIDE, Made
from tests.regions.pretend_node import FakeNode
from tests.regions.test_ingest_pushes import with_manifest

V1, V2 = whole(fill=b"\x01"), whole(fill=b"\x02")


def assert_blobs_are_whole(disk):
    """anytime: what is visible under a hash has that hash."""
    for key, found in disk.buckets.get("nearfield-blobs", {}).items():
        assert blake3(found.data).hexdigest() == key


def assert_live_has_its_blobs(made):
    found = made.find()
    if found is not None and found.live is not None and found.in_region:
        assert {each.blake3 for each in found.live.files} <= made.blobs()


def assert_live_is_proven(made):
    """What is written down as live has its proof on record, at home or on its way there."""
    revision = made.written()
    if revision is not None:
        kept = [made.disk.keys("nearfield-system", f"local/proofs/{revision}")]
        kept += [each.keys("nearfield-system", f"proofs/{revision}/{made.name}") for each in disks(made)]
        assert any(kept)


def disks(made):
    return [store.disk for store in (made.own, made.home)]


async def lived(made, done):
    """Runs until `done()` or death. Whether it died."""
    try:
        async with asyncio.timeout(60), made.running():
            while not done() and not made.life.dead.is_set():  # noqa: ASYNC110 - two conditions, no one event
                await asyncio.sleep(0.001)
    except TimeoutError:
        assert made.life.dead.is_set(), "neither done nor dead"
    return made.life.dead.is_set()


async def every_kill(prepare, act, done, check, num_blobs, kills=range(0, 500, STRIDE)):
    """`prepare()` -> a made region, not running; `act(made)` changes the world; then it lives N operations."""
    base = await prepare()
    for num_ops in kills:
        made = base(Made)
        act(made)
        made.life.die_at = num_ops
        died = await lived_recovering(made, lambda made=made: done(made))
        assert_blobs_are_whole(made.disk)
        assert_live_is_proven(made)
        again = made.again()
        await again.region.recover()
        check(again)
        assert_live_has_its_blobs(again)
        assert not await lived(again, lambda again=again: done(again))
        assert_blobs_are_whole(again.disk)
        assert_live_has_its_blobs(again)
        last = again.again()
        await last.region.recover()
        await last.region.controller.sweep(9e12)
        assert_live_has_its_blobs(last)
        assert len(last.blobs()) == num_blobs, "what a kill left behind is swept, and nothing else"
        if not died:
            return num_ops
    raise AssertionError("it never ended by itself")


async def lived_recovering(made, done):
    """`lived`, for a process that may die while it recovers."""
    living = asyncio.create_task(lived(made, done))
    dying = asyncio.create_task(made.life.dead.wait())
    await asyncio.wait((living, dying), return_when=asyncio.FIRST_COMPLETED)
    living.cancel()
    dying.cancel()
    await asyncio.gather(living, dying, return_exceptions=True)
    return made.life.dead.is_set()


async def home_with(files):
    """The disk of a home region that serves `files`, settled."""
    home = Made("iad")
    async with home.running():
        with_manifest(home.disk, files)
        await home.until_live()
        await home.until(lambda: (home.status() or {}).get("state") == "live", "told")
        await home.until(lambda: home.system(f"judged/{MODEL}.json"), "written down")
    return home


def settled(made, revision):
    return made.live() == made.written() == revision and made.find().error is None


async def test_the_home_region_is_killed_anywhere_in_a_second_push():
    home = await home_with(V1)
    first = home.pointer()["revision"]
    after = await home_with_second(home)

    async def prepare():
        return lambda make: make("iad", home.disk.copied(), node=FakeNode())

    def check(again):
        assert again.live() in {first, after}, "something serves at once after every kill"

    def done(made):
        told = made.disk.buckets["models"].get(f"{MODEL}/nearfield-status.json")
        return settled(made, after) and told is not None and b'"live"' in told.data

    num_ops = await every_kill(prepare, lambda made: with_manifest(made.disk, V2), done, check, 4)
    assert num_ops > 30


async def home_with_second(home):
    """The revision that V2 becomes."""
    other = Made("iad", home.disk.copied())
    async with other.running():
        with_manifest(other.disk, V2)
        first = other.live()
        await other.until(lambda: other.live() not in {None, first}, "second")
        return other.live()


async def test_a_region_is_killed_anywhere_while_it_takes_over_a_new_revision():
    home = await home_with(V1)
    first = home.pointer()["revision"]
    fra = Made("fra", home=home)
    async with fra.running():
        await fra.until_live(first)
        await fra.until(lambda: fra.deployments.policy_line and fra.written(), "policy, and written down")
    async with home.again().running() as again:
        with_manifest(home.disk, V2)
        await again.until(lambda: again.live() not in {None, first}, "second")
        second = again.live()
        word = f"canary/{MODEL}.json"
        await again.until(lambda: (home.system(word) or {}).get("state") == "passed", "it stood its bake")

    async def prepare():
        return lambda make: make("fra", fra.disk.copied(), home=home, node=FakeNode())

    def check(again):
        assert again.live() in {first, second}

    num_ops = await every_kill(prepare, lambda made: None, lambda made: settled(made, second), check, 3)
    assert num_ops > 15


async def test_a_region_is_killed_anywhere_in_its_first_start():
    home = await home_with(V1)
    revision = home.pointer()["revision"]

    async def prepare():
        return lambda make: make("nrt", None, home=home, node=FakeNode())

    await every_kill(prepare, lambda made: None, lambda made: settled(made, revision), lambda again: None, 3)


async def test_a_region_is_killed_anywhere_while_a_model_is_removed():
    home = await home_with(V1)
    with_manifest(home.disk, V1, model="acme/other")
    async with home.again().running() as again:
        await again.until_live(model="acme/other")
    fra = Made("fra", home=home)
    async with fra.running():
        for model in (MODEL, "acme/other"):
            await fra.until_live(model=model)
            await fra.until(lambda model=model: fra.written(model), "written down")
    home.disk.delete("nearfield-system", f"models/{MODEL}.json")

    async def prepare():
        return lambda make: make("fra", fra.disk.copied(), home=home, node=FakeNode())

    def done(made):
        return made.find() is None and made.system(f"local/pointers/{MODEL}.json") is None

    def check(again):
        assert again.live("acme/other"), "the other model is untouched"

    await every_kill(prepare, lambda made: None, done, check, 3)
