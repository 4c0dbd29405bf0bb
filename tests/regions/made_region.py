"""Whole regions on dictionaries: a home and others, that can be run, watched, cut off and killed."""

import asyncio
import json
from contextlib import asynccontextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from regions.assembly import Plan, Region
from regions.map.region import RolloutState
from regions.push.commit import Patience
from regions.rows import Signers, public_bytes
from tests.evidence import count
from tests.regions.fake_store import Disk, FakeStore, Life
from tests.regions.pretend_node import FakeNode

HOME_KEY = Ed25519PrivateKey.from_private_bytes(b"h" * 32)
PATIENCE = Patience(quiet_s=0.03, grace_s=0.06, stale_s=0.06)
ALL = ("iad", "fra", "nrt")
MODEL = "acme/m"
SETTLE_S = 0.01  # of a move on a store without If-Match on PUT
STRIDE = count(4, 1)  # of "every N" tests: every fourth each time, or all


def plan_of(name):
    is_home = name == "iad"
    signers = Signers.of({"iad": public_bytes(HOME_KEY)}, "iad")
    return Plan(name, is_home, ALL, 300.0, PATIENCE, signers, HOME_KEY, settle_s=SETTLE_S)


def put_rules(disk, **rules):
    value = {"schema": "nearfield.rules/1", "canary": {"bake_s": 0}, **rules}
    disk.put("nearfield-system", "rules.json", json.dumps(value).encode())


def put_key(disk, digest="a" * 64, scopes=("infer",)):
    key = {
        "schema": "nearfield.key/1",
        "digest": digest,
        "tenant": "default",
        "scopes": list(scopes),
        "name": "k",
    }
    disk.put("nearfield-system", f"keys/{digest}.json", json.dumps(key).encode())


class Made:
    """One region under test; `disk` and `node` outlive it."""

    def __init__(self, name="iad", disk=None, home=None, node=None, **store):
        self.name = name
        self.store = store  # what the stores can do: `feed`, `replaces`
        self.disk = disk or Disk()
        self.node = node or FakeNode()
        self.life = Life()
        self.own = FakeStore(self.disk, life=self.life, **store)
        self.home = self.own if name == "iad" else FakeStore(home.disk, life=self.life, **store)
        self.region = Region(plan_of(name), self.own, self.home, {self.node.address: self.node})
        self.deployments = self.region.deployments
        if name == "iad":
            put_key(self.disk)
            if disk is None:
                put_rules(self.disk)

    def again(self):
        """The same region after a kill: another process over the same disk."""
        made = Made(self.name, self.disk, self, self.node, **self.store)
        if self.name != "iad":
            made.home.disk = self.home.disk
        return made

    @asynccontextmanager
    async def running(self):
        await self.region.recover()
        task = asyncio.create_task(self.region.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def find(self, model=MODEL):
        return self.deployments.find(model)

    def live(self, model=MODEL):
        found = self.find(model)
        return found.live.id if found and found.live and found.state is RolloutState.LIVE else None

    def error(self, model=MODEL):
        found = self.find(model)
        return found.error if found else None

    async def until(self, true, what="", timeout_s=60.0):
        """Waits until `true()` holds, looking at every change and every few ms."""
        try:
            async with asyncio.timeout(timeout_s):
                while not true():  # noqa: ASYNC110 - the state of disks and regions has no one event
                    await asyncio.sleep(0.002)
        except TimeoutError:
            found = {
                name: (each.state, each.error, each.live and each.live.id[:8])
                for name, each in self.deployments.models.items()
            }
            raise AssertionError(
                f"{self.name}: never {what or 'so'}; {found}; keys {self.disk.keys('nearfield-system')}"
            ) from None

    async def until_live(self, revision=None, model=MODEL):
        await self.until(lambda: self.live(model) and revision in {None, self.live(model)}, "live")
        return self.live(model)

    def system(self, key):
        found = self.disk.buckets.get("nearfield-system", {}).get(key)
        return None if found is None else json.loads(found.data)

    def written(self, model=MODEL):
        """What the region would serve after a restart: live comes first, and is written down soon after."""
        return (self.system(f"local/pointers/{model}.json") or {}).get("live")

    def pointer(self, model=MODEL):
        return self.system(f"models/{model}.json")

    def status(self, model=MODEL):
        found = self.disk.buckets["models"].get(f"{model}/nearfield-status.json")
        return None if found is None else json.loads(found.data)

    def blobs(self):
        return set(self.disk.keys("nearfield-blobs"))
