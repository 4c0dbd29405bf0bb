"""A client may come back to the node that answered it, while that has room; and learns nothing of it but a name."""

from regions.nodes.client import NodeView, WorkerView
from regions.nodes.pick import answering, replica_id
from tests.regions.fake_node import region


async def test_a_preferred_replica_answers_and_is_named():
    async with region(num_nodes=2) as r:
        for fake in r.fakes:
            fake.resident.add(r.revision.id)
        await r.watch.refresh()
        for fake in r.fakes:
            wanted = replica_id(fake.address)
            head, _ = await r.answer(headers=(("x-nearfield-prefer-replica", wanted),))
            assert (head.status, head.get("x-nearfield-replica")) == (200, wanted)
        head, _ = await r.answer(headers=(("x-nearfield-prefer-replica", "00000000"),))
        assert head.status == 200
        assert head.get("x-nearfield-replica") in {replica_id(fake.address) for fake in r.fakes}


def test_a_replica_is_preferred_only_while_it_has_a_slot_to_spare():
    def view(address):
        return NodeView(address, 100, 0, (WorkerView("a/m", "r", "resident", 0, 0, 2, 0.0, 0.0, 0.0),))

    nodes = {address: view(address) for address in ("a:1", "b:1")}

    assert answering("r", nodes, {}) == "a:1"
    assert answering("r", nodes, {("b:1", "r"): 1}, replica_id("b:1")) == "b:1"
    assert answering("r", nodes, {("b:1", "r"): 2}, replica_id("b:1")) == "a:1"
    assert replica_id("a:1") != replica_id("b:1")
    assert len(replica_id("a:1")) == 8
