"""What an edge repeats, holds and waits for is bounded, and the bound is told."""

import asyncio
import json
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.admission.room import AT_ONCE, Room
from edge.figures import EdgeFigures
from edge.receipts.receipt import RECEIPT, told_in
from edge.relay.budget import LEAST_PER_S, SHARE, WINDOW_S, Budget, Budgets
from edge.relay.holdoff import MAX_WAIT_S, SHUT_S, Holdoffs
from edge.relay.patience import Patience, Patiences
from edge.relay.sse import Ending
from regions.ask import Ask
from tests.edge.faults import scripts
from tests.edge.world import ADMIN, MODEL, hangs
from wire.figures.metrics import Metrics
from wire.refused.refusal import Refusal
from wire.turnover import MAX_WAIT_S as MAX_TURNOVER_S
from wire.turnover import MIN_WAIT_S, Turnover

BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}).encode()
RESERVE = LEAST_PER_S * WINDOW_S


def spent(budget, now):
    num = 0
    while budget.take(now):
        num += 1
    return num


def test_budget_a_model_that_nobody_asks_for_may_still_be_replayed_a_little():
    budget = Budget(0.0)

    assert spent(budget, 0.0) == RESERVE
    assert spent(budget, 1.0) == LEAST_PER_S
    assert spent(budget, 1.0 + 10 * WINDOW_S) == RESERVE  # and no more is saved up


def test_budget_is_a_share_of_the_requests_of_the_last_while():
    budget = Budget(0.0)
    spent(budget, 0.0)
    budget.num_requests += 1000
    assert spent(budget, 1.0) == SHARE * 1000 + LEAST_PER_S
    budget.num_requests += 100_000
    assert spent(budget, 1.0 + 100 * WINDOW_S) == pytest.approx(SHARE * 1000 + RESERVE, abs=1)


def test_budget_says_how_long_it_takes_until_there_is_one_again():
    budget = Budget(0.0)
    spent(budget, 0.0)

    assert budget.wait_s(0.0) == pytest.approx(1 / LEAST_PER_S)
    assert not budget.has_one(0.05)
    assert budget.has_one(0.11)


@given(st.integers(1, 2000), st.integers(5, 40))
def test_budget_a_region_that_always_fails_adds_a_bounded_load(rate, seconds):
    budget, num_replays = Budget(0.0), 0
    for second in range(seconds):
        for n in range(rate):
            budget.num_requests += 1
            num_replays += budget.take(second + n / rate)

    assert num_replays <= SHARE * rate * seconds + LEAST_PER_S * seconds + RESERVE + 1


def test_budgets_are_one_a_model_and_a_bounded_number():
    budgets = Budgets(max_models=2)
    first = budgets.of("a/a", 0.0)
    assert budgets.of("a/a", 1.0) is first
    assert first.num_requests == 2
    budgets.of("a/b", 1.0)
    budgets.of("a/c", 1.0)
    assert len(budgets) == 2


def choices(*names, away=()):
    return tuple(SimpleNamespace(region=name, state="away" if name in away else "ok") for name in names)


def order(holdoffs, found, now, model="m", tenant="ada"):
    ordered = [each.region for each in holdoffs.ordered(found, model, now, tenant)]
    if ordered != (came := [each.region for each in found]):
        assert holdoffs.reorder(came, model, now, tenant)
    return ordered


def test_holdoff_who_wants_to_be_left_alone_comes_behind_who_can_serve_until_its_time_is_up():
    holdoffs = Holdoffs()
    three = choices("iad", "fra", "nrt", away=("nrt",))
    assert holdoffs.ordered(three, "m", 0.0) is three
    holdoffs.note("iad", "m", 7.0, 0.0)

    assert order(holdoffs, three, 6.9) == ["fra", "iad", "nrt"]  # a drained region is no other that can serve
    assert order(holdoffs, three, 6.9, model="other") == ["iad", "fra", "nrt"]
    assert order(holdoffs, choices("iad"), 6.9) == ["iad"]
    assert order(holdoffs, three, 7.0) == ["iad", "fra", "nrt"]
    assert len(holdoffs) == 0


def test_holdoff_what_was_said_to_one_tenant_holds_for_no_other():
    holdoffs, two = Holdoffs(), choices("iad", "fra")
    holdoffs.note("iad", "m", 7.0, 0.0, "hog")

    assert order(holdoffs, two, 1.0, tenant="hog") == ["fra", "iad"]
    assert order(holdoffs, two, 1.0) == ["iad", "fra"]
    assert not holdoffs.reorder(["iad", "fra"], "m", 1.0, "ada")
    holdoffs.note("fra", "m", 2.0, 0.0)  # of the region itself: two wait now, and the order is as it came
    assert order(holdoffs, two, 1.0, tenant="hog") == ["iad", "fra"]
    assert order(holdoffs, choices("fra", "iad"), 1.0) == ["iad", "fra"]


def test_holdoff_who_was_told_429_sends_as_many_as_come_back_and_then_tries_again():
    holdoffs, hog = Holdoffs(), ("iad", "m", "hog")
    holdoffs.came_back(*hog)  # nobody was told anything
    holdoffs.note("iad", "m", 7.0, 0.0, "hog")

    assert holdoffs.shut_s(*hog, 0.5) == pytest.approx(6.5)
    assert holdoffs.shut_s("iad", "m", "ada", 0.5) is None
    assert holdoffs.shut_s("iad", "other", "hog", 0.5) is None
    holdoffs.came_back(*hog)
    assert holdoffs.shut_s(*hog, 0.5) is None
    holdoffs.sent(*hog)
    assert holdoffs.shut_s(*hog, 0.5) is not None
    assert holdoffs.shut_s(*hog, SHUT_S) is None, "somebody has to see whether there is more room"
    holdoffs.came_back(*hog)
    holdoffs.note("iad", "m", 7.0, SHUT_S, "hog")
    assert holdoffs.shut_s(*hog, SHUT_S) is not None, "what came back while anybody was sent is no place"


def test_holdoff_what_is_said_to_everybody_shuts_nobody_out():
    holdoffs = Holdoffs()
    holdoffs.note("iad", "m", 7.0, 0.0)

    assert holdoffs.shut_s("iad", "m", "hog", 0.0) is None


def test_holdoff_a_region_that_takes_more_comes_before_one_that_does_not():
    holdoffs, two = Holdoffs(), choices("iad", "fra")
    for region in ("iad", "fra"):
        holdoffs.note(region, "m", 7.0, 0.0, "hog")

    assert order(holdoffs, two, 0.5, tenant="hog") == ["iad", "fra"]
    holdoffs.came_back("fra", "m", "hog")
    assert order(holdoffs, two, 0.5, tenant="hog") == ["fra", "iad"]


def test_holdoff_nothing_is_remembered_once_nobody_is_left_alone():
    holdoffs = Holdoffs()
    for number in range(9):
        holdoffs.note("iad", f"m{number}", 1.0, 0.0)
    assert holdoffs.reorder(["iad"], "m0", 0.5)
    assert not holdoffs.reorder(["iad"], "m0", 1.0)
    assert len(holdoffs) == 0


def test_holdoff_nobody_is_believed_for_ever_and_few_are_remembered():
    holdoffs = Holdoffs(max_remembered=2)
    holdoffs.note("iad", "m", 1e9, 0.0)
    assert order(holdoffs, choices("iad", "fra"), MAX_WAIT_S) == ["iad", "fra"]
    for n in range(5):
        holdoffs.note("iad", f"m{n}", 1.0, 0.0)
    assert len(holdoffs) == 2


def test_room_is_bounded_in_number_and_in_bytes_and_given_back():
    room = Room(2, 100)
    room.enter(60)
    with pytest.raises(Refusal):
        room.enter(41)
    room.enter(40)
    with pytest.raises(Refusal) as refusal:
        room.enter(0)
    assert (refusal.value.status, refusal.value.code) == (503, "overloaded")
    assert not room.take(1)
    room.leave(60, 50.0)
    assert room.take(60)
    assert not room.take(1)
    room.give_back(60)
    room.leave(40, 50.0)

    assert (room.num_requests, room.num_bytes, room.num_refused) == (0, 0, 2)


def test_room_counts_who_left_by_the_time_that_anybody_looks():
    """They are counted together; a page, or a refusal's wait, knows all of them."""
    metrics, room = Metrics(), Room(1, 100)
    EdgeFigures(metrics, room)
    for _ in range(AT_ONCE + 3):
        room.enter(1)
        room.leave(1, 40.0)
    line = f"nearfield_edge_request_seconds_count {AT_ONCE + 3}\n"
    assert line in metrics.page().decode()

    for _ in range(AT_ONCE - 1):
        room.enter(1)
        room.leave(1, 80.0)
    room.enter(1)
    with pytest.raises(Refusal) as refusal:
        room.enter(1)
    assert refusal.value.retry_after_s == pytest.approx(8.0, abs=0.1)


def test_room_says_the_time_in_which_places_were_left_of_late():
    turnover = Turnover()
    assert turnover.wait_s() == MIN_WAIT_S
    for _ in range(100):
        turnover.left(40.0)
    assert turnover.wait_s() == pytest.approx(4.0)
    for _ in range(100):
        turnover.left(1e6)
    assert turnover.wait_s() == MAX_TURNOVER_S


@pytest.mark.parametrize("num", [0, 1, 2, 64, 300])
def test_room_counts_who_left_together_as_one_after_another(num):
    stays_s = [random.Random(each).uniform(10.0, 600.0) for each in range(num)]
    together, each = Turnover(), Turnover()
    for _ in range(2):  # the second time there is a mean already
        together.all_left(stays_s)
        for stay_s in stays_s:
            each.left(stay_s)
        assert together.wait_s() == pytest.approx(each.wait_s(), rel=1e-9)


def test_patience_a_models_own_goes_before_a_paths_and_before_the_edges():
    ask, other = Ask("a/b", False, 1, 1), Ask("a/c", False, 1, 1)
    slow, long = Patience(first_byte_s=60.0), Patience(total_s=3000.0)
    patiences = Patiences(special={"a/b": slow, "/v1/embeddings": long})

    assert patiences.of(ask, "/v1/embeddings") is slow
    assert patiences.of(other, "/v1/embeddings") is long
    assert patiences.of(other, "/v1/chat/completions") == Patience()


COMMENT = b": nearfield {}\n\n"
CHUNK = b'data: {"choices":[{"delta":{"content":"\\"finish_reason\\":\\"stop\\" [DONE]"}}]}\n\n'


@pytest.mark.parametrize(
    ("events", "is_good"),
    [
        ([], False),
        ([COMMENT], False),
        ([CHUNK], False),
        ([CHUNK, b"data: [DONE]\n\n"], True),
        ([CHUNK + b"data: [DONE]\n\n" + COMMENT, COMMENT], True),
        ([b'data: {"choices":[{"delta":{},"finish_reason":null}]}\n\n'], False),
        ([b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n', COMMENT], True),
        ([b'data: {"choices":[],"usage":{}}\n\n'], True),
        ([b'event: message_stop\ndata: {"type": "message_stop"}\n\n'], True),
        ([b'event: message_delta\ndata: {"type": "message_delta"}\n\n'], False),
        ([b'event: response.completed\ndata: {"type": "response.completed"}\n\n'], True),
        ([b'event: response.output_text.delta\ndata: {"type": "response.output_text.delta"}\n\n'], False),
        ([b'data: {"error": {"code": "worker_lost"}}\n\n'], True),
        ([CHUNK, b'data: {"choices":[{"finish_reason":"stop"}]}\r\n\r\n'], True),
    ],
)
def test_a_stream_is_over_when_it_says_so(events, is_good):
    ending = Ending()
    passed = b"".join(map(ending.pass_on, events))

    assert ending.is_good is is_good
    assert passed == b"".join(events)


def test_nothing_but_comments_follows_done():
    ending = Ending()
    done = b"data: [DONE]\n\n"

    assert ending.pass_on(CHUNK + done + CHUNK + COMMENT + done) == CHUNK + done + COMMENT
    assert ending.pass_on(CHUNK) == b""
    assert ending.pass_on(COMMENT) == COMMENT
    assert ending.is_done


def test_an_event_with_a_number_is_passed_on_once():
    ending = Ending()
    events = [b"id: %d\ndata: {}\n\n" % n for n in (0, 1, 1, 0, 2)]

    assert b"".join(map(ending.pass_on, events)) == events[0] + events[1] + events[4]
    assert ending.pass_on(events[4] + b"id: 3\ndata: {}\n\n") == b"id: 3\ndata: {}\n\n"


@pytest.mark.parametrize(
    ("block", "passes"),
    [
        (CHUNK, True),
        (b'data: {"choices": [{"finish_reason": "stop"}]}\n\n', True),
        (b'data: {"x": "id: 1 [DONE] : nearfield"}\n\n', True),
        (b'data: {"error": {"code": "worker_lost"}}\n\n', True),
        (CHUNK + CHUNK, False),
        (b"data: [DONE]\n\n", False),
        (CHUNK + b"data: [DONE]\n\n", False),
        (b"id: 1\n" + CHUNK, False),
        (b"data: {}\nid: 1\n\n", False),
        (b"data: {}\rid: 1\n\n", False),
        (b"data: {}\r\n\r\n", False),
        (b'event: message_stop\ndata: {"type": "message_stop"}\n\n', False),
        (COMMENT, False),
        (RECEIPT + b"1}\n\n", False),
        (b"", False),
        (b"\n\n", False),
    ],
)
def test_what_passes_at_a_glance_is_what_all_looks_would_have_passed(block, passes):
    at_a_glance, looked_at = Ending(), Ending()

    assert at_a_glance.passes(block) is passes
    if passes:
        assert looked_at.pass_on(block) == block
        assert at_a_glance.is_good is looked_at.is_good
        assert told_in(block) == b""
    looked_at.pass_on(b"data: [DONE]\n\n")
    assert not looked_at.passes(block)


async def metrics(edge):
    _, _, body = await edge.get("/nearfield/metrics", key=ADMIN)
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def test_edge_counts_what_went_wrong_and_nothing_else(world):
    edge = await world()
    _, headers, _ = await edge.ask(body=BODY)
    assert not any("setbacks" in name or "replays" in name for name in await metrics(edge))
    near = edge.regions[headers["x-nearfield-region"]]
    near.script = scripts.reset_before_head
    assert (await edge.ask(body=BODY))[0] == 200

    found = await metrics(edge)
    assert found[f'nearfield_edge_setbacks_total{{region="{near.name}",cause="head"}}'] == 1
    assert found[f'nearfield_edge_replays_total{{model="{MODEL}"}}'] == 1
    assert found["nearfield_edge_held_requests"] == 0


async def test_edge_whose_budget_is_spent_says_so_and_asks_nobody_else(world, monkeypatch):
    monkeypatch.setattr("edge.run.LEAST_PER_S", 1e-3)
    edge = await world()
    for region in edge.regions.values():
        region.script = scripts.reset_before_head
    status, headers, body = await edge.ask(body=BODY)

    assert (status, json.loads(body)["error"]["code"]) == (503, "replay_budget_spent")
    assert int(headers["retry-after"]) >= 1
    assert sum(bool(region.requests) for region in edge.regions.values()) == 1
    assert (await metrics(edge))[f'nearfield_edge_replay_budget_refusals_total{{model="{MODEL}"}}'] == 1


@pytest.mark.parametrize("bound", [{"max_held_requests": 1}, {"max_held_bytes": len(BODY) + 10}])
async def test_edge_that_is_full_says_when_to_come_back(world, bound):
    edge = await world(names=("iad",), **bound)
    edge.regions["iad"].script = hangs
    held = asyncio.ensure_future(edge.ask(body=BODY))
    await edge.regions["iad"].asked.wait()
    status, headers, body = await edge.ask(body=BODY)

    assert (status, json.loads(body)["error"]["code"]) == (503, "overloaded")
    assert int(headers["retry-after"]) >= 1
    found = await metrics(edge)
    assert found["nearfield_edge_shed_requests_total"] == 1
    assert found["nearfield_edge_held_requests"] == 1
    held.cancel()
    await edge.regions["iad"].cancelled.wait()
    edge.regions["iad"].script = scripts.well
    async with asyncio.timeout(60):
        while (await edge.ask(body=BODY))[0] != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the edge hears of a client that left by itself
    assert (await metrics(edge))["nearfield_edge_held_bytes"] == 0
