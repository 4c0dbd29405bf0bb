import asyncio
import json

import pytest

from regions.gateway.publish import GAP_S
from regions.gateway.row import RowMaker, region_row
from regions.map.region import ModelFault, Progress, RolloutState, Tier
from regions.nodes.client import NodeView
from regions.nodes.pick import answering, waking
from regions.rows import Change, Signers, Snapshot, decode, encode, fold, public_bytes, signing_key
from tests.regions.fake_node import region, revision, until
from tests.regions.made import policy_row
from weights_cache.model.revision import LeftOut

KEY = signing_key(b"\0" * 32)
SIGNERS = Signers.of({"iad": public_bytes(KEY)}, "iad")


def said(r):
    """The row as an edge knows it that was not there before."""
    snapshot = Snapshot()
    for line in r.publisher.lines(0):
        snapshot = fold(snapshot, line, SIGNERS, now=0.0, source="iad")
    return snapshot.regions["iad"].row


def row_of(line):
    """What one line says, whole or changed."""
    row = decode(line, SIGNERS)
    return row.row if isinstance(row, Change) else row


class Lines:
    """The row stream, line by line."""

    def __init__(self, answer):
        self.answer, self.rest = answer, b""

    async def next(self):
        while b"\n" not in self.rest:
            self.rest += await self.answer.next(60.0)
        line, _, self.rest = self.rest.partition(b"\n")
        return line


async def test_gateway_rows_come_at_once_then_each_second_and_fold_in_order():
    async with region() as r:
        lines, snapshot = Lines(await r.ask("/rows", method="GET")), Snapshot()
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            snapshot = fold(snapshot, await lines.next(), SIGNERS, now=0.0, source="iad")
        took_s = asyncio.get_running_loop().time() - began
        lines.answer.abort()

    row = snapshot.regions["iad"].row
    assert 0.5 < took_s < 30
    assert row.epoch == 7
    assert row.models["acme/m"].tier is Tier.REGION


async def test_gateway_a_change_is_in_the_rows_at_once():
    async with region() as r:
        lines = Lines(await r.ask("/rows", method="GET"))
        took_s = [await told(r, lines, draining=number % 2 == 0) for number in range(4)]
        lines.answer.abort()

    assert min(took_s) < 0.8  # the beat would bring it after 0.85; the machine may be busy


async def told(r, lines, *, draining):
    """Seconds from a change, made soon after a row, to the row that has it."""
    await lines.next()
    await asyncio.sleep(0.15)
    began = asyncio.get_running_loop().time()
    r.deployments.draining = draining
    r.deployments.touch()
    while row_of(await lines.next()).draining != draining:
        pass
    return asyncio.get_running_loop().time() - began


async def test_gateway_the_policy_goes_first_byte_exact_and_again_when_it_changes():
    async with region() as r:
        first, second = (encode(policy_row(seq=n), KEY) for n in (1, 2))
        r.deployments.policy_line = first
        lines = Lines(await r.ask("/rows", method="GET"))
        assert await lines.next() == first
        await lines.next()
        await asyncio.sleep(0.15)
        r.deployments.policy_line = second
        r.deployments.touch()
        seen = [await lines.next() for _ in range(3)]
        lines.answer.abort()

        assert second in seen
        assert seen.count(first) == 0


async def test_gateway_the_rows_end_when_the_region_stops():
    async with region() as r:
        lines = Lines(await r.ask("/rows", method="GET"))
        await lines.next()
        r.deployments.draining = True
        r.gateway.end_rows()
        while not row_of(await lines.next()).draining:  # it was told a whole row and a change at first
            pass
        assert await lines.answer.next(60.0) == b""


async def test_gateway_a_burst_of_progress_does_not_become_a_burst_of_rows():
    async with region() as r:
        await asyncio.sleep(0.15)
        before, began = r.publisher.seq, asyncio.get_running_loop().time()
        for n in range(50):
            r.deployment.idle_timeout_s = float(n)
            r.deployments.origin_bytes_per_s = float(n)
            r.deployments.touch()
            await asyncio.sleep(0.01)

        took_s = asyncio.get_running_loop().time() - began  # half a second, or more where the machine is busy
        assert 2 <= r.publisher.seq - before <= took_s / GAP_S + 4


async def test_gateway_the_row_says_what_is_deployed_and_what_nodes_report():
    async with region() as r:
        fault = ModelFault("bad_push", "x" * 5000, "Push again.")
        r.deployment.error = fault
        r.deployment.refused_left_out = tuple(LeftOut(f"f{n}.bin", "no weights") for n in range(40))
        r.deploy(revision("a/new", kind="embed"), live=None, candidate=revision("a/new", kind="embed"))
        r.deployments.models["a/new"].state = RolloutState.REPLICATED
        await r.resident()
        r.publisher.publish()
        row = said(r)

    model, new = row.models["acme/m"], row.models["a/new"]
    assert (model.tier, model.state, model.revision) == (Tier.RESIDENT, RolloutState.LIVE, r.revision.id)
    assert (model.running, model.waiting, model.slots) == (1, 2, 4)
    assert (model.prefill_ms_per_token, model.step_ms, model.bytes, model.max_len) == (0.5, 4.0, 16, 64)
    assert len(model.left_out) == 32
    assert (model.error.code, len(model.error.message)) == ("bad_push", 1024)
    assert (new.revision, new.state, new.kind, new.serves) == ("", RolloutState.REPLICATED, "embed", False)
    assert (row.store_bytes_per_s, row.host_bytes_per_s, row.attach_s) == (1e9, 4e9, 0.1)


async def test_gateway_what_is_said_of_a_sleeping_model_is_made_once_and_anew_when_it_changed():
    async with region() as r:
        r.deploy(revision("a/new"), live=None, candidate=revision("a/new"))
        new, maker = r.deployments.models["a/new"], RowMaker(r.deployments, r.wakes, 7)
        last = maker.row(1).models["a/new"]
        assert maker.row(2).models["a/new"] is last
        for name, value in {
            "live": revision("a/new"),
            "in_region": False,
            "state": RolloutState.DRAINING,
            "error": ModelFault("bad_push", "m", "n"),
            "progress": Progress("pull", 5.0),
            "refused_left_out": (LeftOut("f.bin", "no weights"),),
            "candidate": revision("a/new", salt="2"),
            "pushed_s": 9,
            "waits_for": "fra",
        }.items():
            setattr(new, name, value)
            made = maker.row(3).models["a/new"]
            assert made == region_row(r.deployments, r.wakes, 7, 3).models["a/new"]
            assert (made != last) is (name != "candidate"), name
            last = made
        await r.resident()
        assert {name: each.tier for name, each in maker.row(4).models.items()} == {
            name: r.deployments.tier(each) for name, each in r.deployments.models.items()
        }
        del r.deployments.models["a/new"]
        assert set(maker.row(5).models) == {"acme/m"}


async def test_gateway_held_requests_count_as_waiting_and_the_wake_as_progress():
    async with region() as r:
        r.fakes[0].go.clear()
        asked = [asyncio.create_task(r.answer()) for _ in range(3)]
        await until(lambda: r.gateway.seats.num_held == 3)
        await until(lambda: [w.progress.phase for w in r.wakes.running.values()] == ["fetch"])
        r.publisher.publish()
        row = said(r).models["acme/m"]
        r.fakes[0].go.set()
        await asyncio.gather(*asked)

    assert row.waiting == 3
    assert (row.progress.phase, row.progress.percent, row.progress.eta_s) == ("fetch", 10.0, 1.2)


async def test_gateway_cool_and_prewarm_move_a_model_between_tiers():
    async with region() as r:
        await r.resident()

        async def control(action, **order):
            body = json.dumps({"model": "acme/m", **order}).encode()
            head, said = await r.answer(f"/control/{action}", body=body)
            return head.status, json.loads(said)

        assert await control("prewarm") == (202, {"model": "acme/m", "tier": "resident"})
        assert await control("cool", to="host") == (200, {"model": "acme/m", "to": "host", "freed_bytes": 16})
        assert await control("cool", to="host") == (200, {"model": "acme/m", "to": "host", "freed_bytes": 0})
        assert await control("cool", to="region") == (
            200,
            {"model": "acme/m", "to": "region", "freed_bytes": 16},
        )
        assert await control("cool", to="origin") == (
            200,
            {"model": "acme/m", "to": "origin", "freed_bytes": 16},
        )
        assert await control("prewarm") == (202, {"model": "acme/m", "tier": "origin"})
        await until(lambda: r.deployments.tier(r.deployment) is Tier.RESIDENT)
        assert r.fakes[0].loads[0]["reason"] == "prewarm"
        assert [each["to"] for each in r.fakes[0].unloads] == ["host", "region"]


async def test_gateway_cooling_waits_for_a_wake_under_way():
    async with region() as r:
        r.fakes[0].go.clear()
        asked = asyncio.create_task(r.answer())
        await until(lambda: r.gateway.seats.num_held == 1)
        cool = asyncio.create_task(r.answer("/control/cool", body=b'{"model":"acme/m","to":"region"}'))
        await asyncio.sleep(0.05)
        assert r.fakes[0].unloads == []
        r.fakes[0].go.set()
        head, _ = await cool
        assert head.status == 200
        assert len(r.fakes[0].unloads) == 1
        assert (await asked)[0].status in {200, 503}


@pytest.mark.parametrize(
    ("status", "path", "body"),
    [
        (400, "cool", b"["),
        (400, "cool", b"[]"),
        (400, "cool", b'{"model":"acme/m","to":"resident"}'),
        (400, "cool", b'{"model":"acme/m","to":[]}'),
        (400, "cool", b'{"to":"host"}'),
        (404, "cool", b'{"model":"a/b","to":"host"}'),
        (404, "prewarm", b'{"model":"a/b"}'),
        (413, "prewarm", b" " * 5000),
    ],
)
async def test_gateway_a_bad_order_is_refused(status, path, body):
    async with region() as r:
        head, _ = await r.answer(f"/control/{path}", body=body)

        assert head.status == status


async def test_gateway_status_shows_the_row_and_the_nodes():
    async with region() as r:
        await r.resident()
        r.publisher.publish()
        head, body = await r.answer("/status", method="GET")

    said = json.loads(body)
    node = said["nodes"][r.fakes[0].address]
    assert head.status == 200
    assert (said["region"], said["epoch"]) == ("iad", 7)
    assert said["row"]["models"]["acme/m"]["tier"] == "resident"
    assert node["workers"][0]["revision"] == r.revision.id


async def test_gateway_a_silent_node_is_forgotten_after_two_polls_and_known_again_when_it_answers():
    async with region() as r:
        fake = r.fakes[0]
        status, fake.status = fake.status, lambda: "nonsense"
        await r.watch.refresh()
        assert set(r.deployments.nodes) == {fake.address}
        await r.watch.refresh()
        assert r.deployments.nodes == {}
        fake.status = status
        await r.watch.refresh()
        assert set(r.deployments.nodes) == {fake.address}


async def test_gateway_the_watch_polls_by_itself():
    async with region() as r:
        task = asyncio.create_task(r.watch.run())
        r.fakes[0].resident.add(r.revision.id)
        await until(lambda: r.deployments.tier(r.deployment) is Tier.RESIDENT)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def view(address, *, cached=(), used=0, budget=100):
    return NodeView(address, budget_bytes=budget, used_bytes=used, cached=frozenset(cached))


def test_gateway_a_model_wakes_where_its_bytes_are_then_where_memory_is_free():
    nodes = {
        each.address: each
        for each in (view("a", used=50), view("b", used=10), view("c", used=90, cached="r"))
    }

    assert waking("r", nodes, []) == "c"
    assert waking("r", nodes, ["c"]) == "b"
    assert waking("other", nodes, []) == "b"
    assert waking("r", nodes, list(nodes)) is None
    assert answering("r", nodes, {}) is None
