"""The small parts under the controller: feeds, loops, pointers, the check before an upload, a node's answers."""

import asyncio
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.deployments import Deployments
from regions.map.region import ModelFault
from regions.nodes.client import Node, NodeError, NodeView, WorkerView
from regions.objects.changes import START, AnyFeed, ListFeed, StoreFeed, follow
from regions.objects.ledger import Ledger, model_below, model_of
from regions.objects.pointer import Judged, LocalRecord, Pointer, PointerError, first_pointer
from regions.objects.together import Together
from regions.push.check import check_folder
from regions.push.commit import Complete, Refused
from regions.push.fit import misfit, misplaced, needed_bytes
from regions.rollout.loops import KeyedLoops
from storage.client.sdk import StoreError, Unreachable
from tests.regions.fake_store import Disk, FakeStore
from tests.regions.folders import REGIONS, sharded, whole
from tests.regions.made_revision import revision_of
from tests.regions.pretend_node import FACTS
from tests.regions.test_commit_verdicts import REFUSALS
from weights_cache.model.revision import LeftOut, Revision, RevisionError, Spec
from wire.serve import Server

# ---- changes


class Waiting:
    """A store whose feed answers when the test says so."""

    list = None

    def __init__(self):
        self.asked, self.answer = [], None

    async def changes(self, bucket, since, *, wait_s, limit):
        self.asked.append((bucket, since, wait_s, limit))
        self.answer = asyncio.get_running_loop().create_future()
        return await self.answer


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_several_ask_at_once_is_asked_once():
    store = Waiting()
    together = Together(store)
    asks = [asyncio.create_task(together.changes("b", since)) for since in (7, 7, 7, 8)]
    await settled()
    assert [since for _, since, _, _ in store.asked] == [7, 8]
    asks.pop().cancel()
    asks[0].cancel()
    await settled()
    assert store.answer.cancelled(), "nobody waits for 8 any more"

    for each in asks:
        each.cancel()
    again = asyncio.create_task(together.changes("b", 7))
    await asyncio.gather(*asks, return_exceptions=True)
    assert (len(store.asked), again.done()) == (3, False), "it began while the others were ending"
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert (together._asked, +together._num_waiting) == ({}, {})


@pytest.mark.parametrize("fault", [None, StoreError("Gone", "away", 503)])
async def test_an_answer_or_a_fault_is_for_all_who_wait_and_for_nobody_later(fault):
    store = Waiting()
    together = Together(store)
    asks = [asyncio.create_task(together.changes("b", 7)) for _ in range(2)]
    await settled()
    if fault is None:
        store.answer.set_result("page")
    else:
        store.answer.set_exception(fault)
    assert await asyncio.gather(*asks, return_exceptions=True) == [fault or "page"] * 2
    later = asyncio.create_task(together.changes("b", 7))
    await settled()
    assert len(store.asked) == 2
    later.cancel()
    await asyncio.gather(later, return_exceptions=True)


def disk_with(*keys):
    disk = Disk({"b": {}})
    for key in keys:
        disk.put("b", key, key.encode())
    return disk


@pytest.mark.parametrize("kind", [StoreFeed, ListFeed])
async def test_a_feed_begins_with_everything_and_goes_on_with_what_changes(kind):
    disk = disk_with("m/1", "m/2", "other")
    feed = kind(FakeStore(disk), "b", 0.001)
    first = await feed.changes("m/", START)
    assert set(first.keys) == {"m/1", "m/2"}

    disk.put("b", "m/2", b"new")
    disk.put("b", "m/3", b"new")
    disk.delete("b", "m/1")
    disk.put("b", "other", b"new")
    second = await feed.changes("m/", first.cursor)
    assert set(second.keys) == {"m/1", "m/2", "m/3"}
    assert second.cursor > first.cursor
    assert (await feed.changes("m/", second.cursor)).keys == ()


async def test_a_store_that_began_anew_is_read_from_the_start():
    disk = disk_with("m/1", "m/2", "m/3")
    feed = StoreFeed(FakeStore(disk), "b", 0.001)
    first = await feed.changes("", START)
    fresh = StoreFeed(FakeStore(disk_with("m/9")), "b", 0.001)

    assert (await fresh.changes("", first.cursor)).keys == ("m/9",)


async def test_lines_that_are_gone_from_the_feed_are_made_up_for_by_a_listing():
    store = FakeStore(disk_with("m/1"))
    real = store.changes

    async def expired(bucket, since, **kwargs):
        if since == 0:
            raise StoreError("EventsExpired", "list the bucket", 400)
        return await real(bucket, since, **kwargs)

    store.changes = expired
    assert (await StoreFeed(store, "b", 0.001).changes("", 0)).keys == ("m/1",)


async def test_the_kind_of_feed_is_found_out_when_the_store_first_answers():
    ours, other = FakeStore(disk_with("m/1")), FakeStore(disk_with("m/1"), feed=False)
    for store, kind in ((ours, StoreFeed), (other, ListFeed)):
        feed = AnyFeed(store, "b")
        store.offline = True
        with pytest.raises(Unreachable):
            await feed.changes("", START)
        store.offline = False
        assert (await feed.changes("", START)).keys == ("m/1",)
        assert isinstance(feed._found, kind)


async def until(true):
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.001)


async def test_following_outlives_the_store(monkeypatch):
    monkeypatch.setattr("regions.objects.changes.PAUSE_S", 0.001)
    store, seen = FakeStore(disk_with("m/1")), []
    task = asyncio.create_task(follow(StoreFeed(store, "b", 0.001), "m/", seen.append))
    await until(lambda: seen)
    store.offline = True
    await asyncio.sleep(0.01)
    store.disk.put("b", "m/2", b"x")
    store.offline = False
    await until(lambda: "m/2" in seen)
    task.cancel()


# ---- loops


async def test_pokes_while_a_step_runs_lead_to_one_more_step():
    runs, gate = [], asyncio.Event()

    async def step(key):
        runs.append(key)
        await gate.wait()

    loops = KeyedLoops("test", step)
    loops.poke("a")
    await asyncio.sleep(0)
    for _ in range(10):
        loops.poke("a")
    gate.set()
    await until(lambda: len(runs) == 2)
    await asyncio.sleep(0.01)
    assert runs == ["a", "a"]
    await loops.close()


async def test_a_step_that_wants_to_run_again_does_and_a_poke_hurries_it():
    runs = []

    async def step(key):
        runs.append(key)
        return [0.001, 60.0, None][min(len(runs) - 1, 2)]

    loops = KeyedLoops("test", step)
    loops.poke("a")
    await until(lambda: len(runs) == 2)
    for num in (3, 4):
        await asyncio.sleep(0.01)
        assert len(runs) == num - 1
        loops.poke("a")
        await until(lambda num=num: len(runs) == num)
    await loops.close()


async def test_a_bug_in_one_key_ends_that_loop_alone_and_is_logged(caplog):
    async def step(key):
        if key == "bad":
            raise ZeroDivisionError(key)

    loops = KeyedLoops("test", step)
    loops.poke("bad")
    loops.poke("good")
    for num in (1, 2):
        await until(lambda num=num: caplog.text.count("test bad stopped") == num)
        loops.poke("bad")
    await loops.close()


# ---- pointers and records


def test_a_pointer_keeps_what_a_push_leaves_open_and_takes_what_it_says():
    revision = revision_of()
    first = first_pointer(revision, "f1", 1_700_000_000, ("iad",))
    assert (first.serial, first.previous, first.regions) == (1, (), ("iad",))
    assert first.pushed_s == 1_700_000_000

    scaled = Pointer(**{**{name: getattr(first, name) for name in Pointer.__slots__}, "min_replicas": 3})
    said = Spec(idle_timeout_s=9.0, regions=("fra",))
    newer = Revision(revision.model, revision.files, revision.tensors, revision.extents, FACTS, said)
    moved = scaled.moved(newer, "f2", 1_700_000_009)
    assert (moved.min_replicas, moved.idle_timeout_s, moved.regions) == (3, 9.0, ("fra",))
    assert moved.pushed_s == 1_700_000_009
    assert moved.previous == (revision.id,)
    assert moved.moved(revision, "f3", 1_700_000_010, ("nrt",)).previous == (newer.id,)
    assert moved.moved(revision, "f3", 1_700_000_010, ("nrt",)).regions == ("nrt",)


def test_a_move_is_later_than_the_one_before_it_whatever_the_clock_says():
    """Two within a second, or by two machines: whoever waits for one tells its rows from those before it."""
    pushed = first_pointer(revision_of(), "f1", 100)
    at_once, behind = pushed.turned("b" * 64, 100), pushed.turned("b" * 64, 40)

    assert (pushed.pushed_s, at_once.pushed_s, behind.pushed_s) == (100, 101, 101)
    assert at_once.moved(revision_of(), "f2", 100).pushed_s == 102
    assert at_once.turned("c" * 64, 250).pushed_s == 250


def test_what_is_written_is_read_back():
    pointer = first_pointer(revision_of(), "f1", 1_700_000_000)
    fault = ModelFault("code", "message", "next")
    record = LocalRecord(pointer, pointer.revision, fault)
    judged = Judged("acme/m", "f", fault, (LeftOut("a", "b"),))

    assert Pointer.from_json(pointer.to_json()) == pointer
    assert LocalRecord.from_json(record.to_json()) == record
    assert Judged.from_json(judged.to_json()) == judged


def test_a_pointer_by_another_hand_may_leave_fields_out_and_have_others():
    value = {"schema": "nearfield.pointer/1", "model": "acme/m", "revision": "a" * 64, "note": "mine"}

    assert Pointer.from_json(json.dumps(value).encode()) == Pointer("acme/m", "a" * 64)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.text() | st.integers(),
            lambda each: st.lists(each) | st.dictionaries(st.text(), each),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_no_bytes_raise_anything_but_their_own_error(data):
    for kind in (Pointer, LocalRecord, Judged):
        with pytest.raises(PointerError):
            kind.from_json(data)


def test_keys_become_models_only_by_the_pattern():
    assert model_below("acme/m/config.json") == ("acme/m", "config.json")
    assert model_below("acme/m/1_Pooling/config.json") == ("acme/m", "1_Pooling/config.json")
    for key in ("acme/m", "acme", "acme/m/", "../x/y", "a b/c/d", "/a/b/c"):
        assert model_below(key)[0] is None
    assert model_of("models/acme/m.json", "models/", ".json") == "acme/m"
    assert model_of("models/../m.json", "models/", ".json") is None


async def test_a_revision_under_another_ones_name_is_an_error():
    disk = Disk({"nearfield-system": {}})
    ledger, revision = Ledger(FakeStore(disk)), revision_of()
    await ledger.keep_revision(revision)
    await ledger.keep_revision(revision)
    assert await ledger.revision(revision.id) == revision
    disk.put("nearfield-system", f"revisions/{'b' * 64}.json", revision.to_json())

    with pytest.raises(RevisionError):
        await ledger.revision("b" * 64)
    assert await ledger.revision("c" * 64) is None


# ---- before an upload


@pytest.mark.parametrize("files", [whole(), sharded(3)], ids=["single", "sharded"])
def test_a_good_folder_passes_the_check_before_its_upload(files):
    assert isinstance(checked(files), Complete)


@pytest.mark.parametrize("code", REFUSALS)
def test_a_bad_folder_is_refused_before_its_upload_as_after_it(code):
    found = checked(REFUSALS[code])

    assert isinstance(found, Refused)
    assert found.code == code


def test_an_empty_folder_is_refused():
    assert checked({}).code == "empty_folder"


def checked(files):
    sizes = {path: len(data) for path, data in files.items()}
    return check_folder(sizes, lambda path, offset, length: files[path][offset : offset + length], REGIONS)


# ---- fit


def test_what_fits_and_what_does_not():
    assert needed_bytes(FACTS) == 16 + 16 * 512
    assert misfit(FACTS, [needed_bytes(FACTS)]) is None
    assert misfit(FACTS, [1, 2, needed_bytes(FACTS) - 1]).code == "does_not_fit"
    assert misfit(FACTS, []).code == "does_not_fit"


def test_copies_in_8_bits_need_room_of_their_own():
    least = needed_bytes(FACTS)
    assert needed_bytes(FACTS, Spec(quantize="int8")) == least + 2 * FACTS.num_params > least
    assert misfit(FACTS, [least], Spec()) is None
    assert misfit(FACTS, [least], Spec(quantize="int8")).code == "does_not_fit"


def test_what_only_our_own_engine_serves_names_no_other():
    """A model that reranks, named for vLLM, would be refused by its first request: so it is at push."""
    reranks = replace(FACTS, kind="rerank")
    assert misplaced(reranks, Spec(engine="vllm")).code == "bad_model_toml"
    for spec in (Spec(), Spec(engine="nearfield")):
        assert misplaced(reranks, spec) is None
    assert misplaced(FACTS, Spec(engine="vllm")) is None


# ---- a node over HTTP


class Answers:
    """A node that answers each path with what it was given."""

    def __init__(self, **answers):
        self.answers = answers
        self.seen = []

    async def serve(self, exchange):
        body = await exchange.read_body(1 << 20)
        self.seen.append((exchange.head.path, exchange.head.get("authorization"), body))
        answer = self.answers[exchange.head.path.rpartition("/")[2]]
        status, data = answer.pop(0) if isinstance(answer, list) else answer
        await exchange.respond(status, (("content-type", "application/json"),), data)


async def asked(answers, ask):
    fake = Answers(**answers)
    server = await Server.start(fake.serve, "127.0.0.1", 0)
    node = Node(f"127.0.0.1:{server.port}", "token")
    try:
        return await ask(node), fake
    finally:
        await node.close()
        await server.close()


STATUS = {
    "region": "iad",
    "memory": {"budget_bytes": 100, "used_bytes": 1},
    "workers": [
        {
            "model": "acme/m", "revision": "r", "state": "resident", "pid": 1, "running": 1, "waiting": 0, "slots": 4,
            "idle_s": 0.5, "prefill_ms_per_token": None, "step_ms": 2.0, "phases": {},
        }
    ],
    "cache": [{"revision": "r", "bytes": 5}],
    "store_bytes_per_s": None, "host_bytes_per_s": 3.5, "attach_s": 0.1,
}  # fmt: skip


async def test_a_nodes_status_is_read():
    view, fake = await asked({"status": (200, json.dumps(STATUS).encode())}, lambda node: node.status())

    assert view.budget_bytes == 100
    assert view.workers[0].holds("r")
    assert view.cached == frozenset({"r"})
    assert fake.seen[0][1] == "Bearer token"


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"nonsense", b'{"memory": 3}', b'{"memory":{"budget_bytes":"x"}}']
)
async def test_a_strange_status_is_a_passing_error(body):
    with pytest.raises(NodeError) as caught:
        await asked({"status": (200, body)}, lambda node: node.status())
    assert caught.value.passing


async def load(node):
    return [line async for line in node.load(revision_of(), "probe", 3.0, 0)]


async def test_a_load_is_followed_to_its_end():
    ready = b'{"phase":"ready","start":"region","bytes":{"region":9},"phases":{},"total_ms":5}\n'
    lines = b'{"phase":"fetch","percent":50,"eta_s":0.5}\n' + ready
    found, fake = await asked({"load": (200, lines)}, load)

    assert [line.phase for line in found] == ["fetch", "ready"]
    assert found[-1].bytes == {"region": 9}
    asked_for = json.loads(fake.seen[0][2])
    assert asked_for["revision"] == revision_of().as_value()
    assert (asked_for["reason"], asked_for["idle_timeout_s"]) == ("probe", 3.0)


async def test_a_revision_is_sent_once_and_then_named():
    """A node that has forgotten it, or is another process by now, is sent it again."""
    ready = (200, b'{"phase":"ready","start":"host","bytes":{},"phases":{},"total_ms":5}\n')
    unknown = (409, b'{"error":{"code":"unknown_revision","message":"Send it whole."}}')
    answers = [ready, ready, unknown, ready]

    async def thrice(node):
        return [await load(node) for _ in range(3)]

    found, fake = await asked({"load": answers}, thrice)
    whole, name = revision_of().as_value(), revision_of().id

    assert [lines[-1].phase for lines in found] == ["ready"] * 3
    assert [json.loads(body)["revision"] for _, _, body in fake.seen] == [whole, name, name, whole]


async def test_another_refusal_of_a_named_revision_is_told():
    ready = (200, b'{"phase":"ready","start":"host","bytes":{},"phases":{},"total_ms":5}\n')
    answers = [ready, (503, b'{"error":{"code":"draining","message":"It stops."}}')]

    async def twice(node):
        await load(node)
        await load(node)

    with pytest.raises(NodeError, match="It stops"):
        await asked({"load": answers}, twice)
    assert not answers


@pytest.mark.parametrize(
    ("status", "body", "code", "passing"),
    [
        (200, b'{"phase":"failed","code":"does_not_fit","message":"m","next":"n"}\n', "does_not_fit", False),
        (200, b'{"phase":"failed","code":"memory_short","message":"m","next":"n"}\n', "memory_short", True),
        (200, b'{"phase":"fetch"}\n', "node_unreachable", True),
        (200, b"what\n", "node_failed", True),
        (401, b'{"error":{"code":"invalid_api_key","message":"m"}}', "invalid_api_key", True),
        (500, b"oops", "node_failed", True),
        (503, b'{"error":{"code":"overloaded","message":"m"}}', "overloaded", True),
    ],
)
async def test_a_load_that_fails_says_why_and_whether_it_may_pass(status, body, code, passing):
    with pytest.raises(NodeError) as caught:
        await asked({"load": (status, body)}, load)
    assert (caught.value.fault.code, caught.value.passing) == (code, passing)


async def inspect(node):
    return await node.inspect("models", "acme/m/", [], [])


async def test_an_inspection_gives_facts_or_the_refusal():
    said = {"facts": FACTS.as_value(), "left_out": [{"path": "x", "reason": "y"}]}
    found, _ = await asked({"inspect": (200, json.dumps(said).encode())}, inspect)
    assert (found.facts, found.left_out) == (FACTS, (LeftOut("x", "y"),))
    refused = b'{"refused":{"code":"unknown_architecture","message":"m","next":"n"}}'
    with pytest.raises(NodeError) as caught:
        await asked({"inspect": (422, refused)}, inspect)
    assert caught.value.fault == ModelFault("unknown_architecture", "m", "n")
    assert not caught.value.passing


NOTHING_SOUND = {
    "data": [{"embedding": [float("nan")]}],
    "choices": [1],
    "usage": {},
    "results": [{"relevance_score": float("nan")}],
}


@pytest.mark.parametrize(
    ("kind", "path", "good", "bad"),
    [
        (
            "generate",
            "completions",
            {"choices": [{"text": "a"}], "usage": {"completion_tokens": 1}},
            {"choices": []},
        ),
        ("embed", "embeddings", {"data": [{"embedding": [0.5, 1.0]}]}, {"data": [{"embedding": []}]}),
        ("rerank", "rerank", {"results": [{"relevance_score": 0.5}]}, {"results": [{"index": 0}]}),
    ],
)
async def test_a_probe_wants_one_token_one_finite_vector_or_one_score(kind, path, good, bad):
    facts = FACTS.__class__.from_value({**FACTS.as_value(), "kind": kind})
    base = revision_of()
    revision = Revision(base.model, base.files, base.tensors, base.extents, facts)
    _, fake = await asked({path: (200, json.dumps(good).encode())}, lambda node: node.probe(revision))
    assert json.loads(fake.seen[0][2])["model"] == "acme/m"

    for body in (bad, {}, NOTHING_SOUND):
        with pytest.raises(NodeError) as caught:
            await asked({path: (200, json.dumps(body).encode())}, lambda node: node.probe(revision))
        assert caught.value.fault.code == "probe_failed"
        assert not caught.value.passing


async def test_a_node_that_is_not_there_is_a_passing_error():
    node = Node("127.0.0.1:1", "token")
    with pytest.raises(NodeError) as caught:
        await node.status()
    assert caught.value.passing
    assert caught.value.fault.code == "node_unreachable"


async def test_a_report_that_says_the_same_is_no_change_and_idle_time_only_ticks():
    """Else an idle region would make a row for each poll of each node."""
    deployments = Deployments("iad")
    worker = WorkerView("acme/m", "r", "resident", 0, 0, 4, 1.0, 2.0, 3.0)
    for idle_s in (1.0, 1.5, 2.0):
        deployments.heard(NodeView("n:1", workers=(replace(worker, idle_s=idle_s),)))
    assert deployments.version == 1
    assert deployments.nodes["n:1"].workers[0].idle_s == 2.0
    deployments.heard(NodeView("n:1", workers=(replace(worker, running=1),)))
    assert deployments.version == 2
