"""Each request counts once however often it was tried, and a record that is not what the engine computed is found."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regions.usage.read import Found
from regions.usage.reconcile import EngineLog, Running, differences, totals
from regions.usage.record import Record, RecordError, read_records
from regions.usage.sums import sums
from tests.evidence import count

DAY_S = 1_795_700_000.0


def value(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "attempt": "b-1:0", "request": "req_1", "try": 0, "tenant": "acme", "key": "0" * 12, "region": "iad",
        "node": "n", "model": "acme/m", "revision": "r", "kind": "chat", "engine": "nearfield", "log": "b-1",
        "orders": [0, 1], "prompt_tokens": 5, "cached_tokens": 1, "completion_tokens": 3, "computed_tokens": 7,
        "sampled_tokens": 3, "device_us": 700, "start": DAY_S, "end": DAY_S + 1, "outcome": "finished",
    }  # fmt: skip
    return made | changes


def record(**changes: Any) -> Record:
    return Record.of(value(**changes))


def test_the_attempt_that_was_answered_counts_and_the_others_were_wasted() -> None:
    first = record(outcome="node_lost", device_us=40)
    second = record(attempt="c-1:0", node="m", log="c-1", **{"try": 1})
    (found,) = sums([first, second]).values()

    assert (found.requests, found.failed_requests, found.completion_tokens) == (1, 0, 3)
    assert (found.device_us, found.wasted_us) == (700, 40)


def test_of_two_whole_answers_the_later_try_counts_and_a_cancelled_one_never_before_a_whole_one() -> None:
    whole, later = record(device_us=1), record(attempt="b-1:1", **{"try": 1}, device_us=2)
    left = record(attempt="b-1:2", **{"try": 2}, device_us=4, outcome="cancelled")
    (two,) = sums([whole, later]).values()
    (hedged,) = sums([whole, left]).values()

    assert (two.device_us, two.wasted_us) == (2, 1)
    assert (hedged.device_us, hedged.wasted_us) == (1, 4)


@pytest.mark.parametrize("outcome", ["failed", "worker_lost", "node_lost"])
def test_a_request_that_nobody_answered_costs_its_tenant_nothing(outcome: str) -> None:
    (found,) = sums([record(outcome=outcome)]).values()

    assert (found.requests, found.failed_requests, found.prompt_tokens, found.completion_tokens) == (
        0,
        1,
        0,
        0,
    )
    assert (found.device_us, found.wasted_us) == (0, 700)


def test_by_tenant_key_model_and_day() -> None:
    found = sums(
        [
            record(),
            record(request="req_2", attempt="b-1:1"),
            record(request="req_3", attempt="b-1:2", tenant="other", start=DAY_S + 86_400),
        ]
    )

    assert list(found) == [
        ("acme", "0" * 12, "acme/m", "2026-11-26"),
        ("other", "0" * 12, "acme/m", "2026-11-27"),
    ]
    assert [each.requests for each in found.values()] == [2, 1]


ATTEMPTS = st.lists(
    st.tuples(
        st.integers(0, 5), st.integers(0, 3), st.integers(0, 10**9),
        st.sampled_from(["finished", "stopped", "cancelled", "failed", "node_lost"]),
    ),
    max_size=20,
)  # fmt: skip


@settings(max_examples=count(40, 2_000))
@given(ATTEMPTS, st.randoms(use_true_random=False))
def test_no_microsecond_is_lost_or_counted_twice_whatever_is_read_in_whatever_order(
    attempts: list[Any], draws: Any
) -> None:
    """Objects that are read twice, from store and node, change nothing."""
    made = [
        record(request=f"req_{request}", attempt=f"b-1:{number}", **{"try": tried}, device_us=us, outcome=end)
        for number, (request, tried, us, end) in enumerate(attempts)
    ]
    shuffled = [*made, *made]
    draws.shuffle(shuffled)
    found = list(sums(shuffled).values())

    assert sum(each.device_us + each.wasted_us for each in found) == sum(us for _, _, us, _ in attempts)
    assert sum(each.requests + each.failed_requests for each in found) == len({each[0] for each in attempts})
    assert sums(shuffled) == sums(made)


@pytest.mark.parametrize(
    "changes",
    [
        {"device_us": -1}, {"device_us": 1.5}, {"device_us": True}, {"orders": []}, {"orders": [1, 0]}, {"orders": "1"},
        {"tenant": 5}, {"outcome": "free"}, {"more": "x"}, {"start": "now"}, {"try": None},
    ],
)  # fmt: skip
def test_a_line_that_no_node_writes_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        record(**changes)
    with pytest.raises(RecordError):
        read_records(b"{")


LOGS = {("n", "b-1"): EngineLog({"0": (7, 3, 700)}, 700)}


def off(*records: Record, logs: Any = None, running: Any = ()) -> list[tuple[str, int, int]]:
    found = differences(records, LOGS if logs is None else logs, running)
    return [(each.what, each.recorded, each.engine) for each in found]


def test_what_the_engine_says_too_is_no_difference() -> None:
    assert off(record()) == []
    assert totals([record()], LOGS)["recorded"] == totals([record()], LOGS)["engines"]
    assert off(record(outcome="stopped", completion_tokens=2)) == []
    assert off(record(completion_tokens=8, resumed_tokens=5)) == [], "another engine sampled the first five"
    outside = record(request="req_2", attempt="outside-b:1", log="outside-b", device_us=9)
    assert off(record(), outside) == [], "an external engine has no log of ours"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"device_us": 701}, ("device_us", 701, 700)),
        ({"computed_tokens": 6}, ("computed_tokens", 6, 7)),
        ({"sampled_tokens": 2}, ("sampled_tokens", 2, 3)),
        ({"completion_tokens": 2}, ("completion_tokens", 2, 3)),
        ({"completion_tokens": 4, "outcome": "stopped"}, ("completion_tokens", 4, 3)),
    ],
)
def test_each_figure_that_is_off_by_one_is_found(
    changes: dict[str, Any], wanted: tuple[str, int, int]
) -> None:
    assert off(record(**changes)) == [wanted]


def test_work_that_nobody_wrote_down_is_found_unless_it_still_runs() -> None:
    logs = {("n", "b-1"): EngineLog({"0": (7, 3, 700), "1": (9, 0, 50)}, 750)}
    running = [Running("n", "b", frozenset({("b-1", "1")}))]

    assert off(record(), logs=logs) == [("not written down", 0, 50)]
    assert off(record(), logs=logs, running=running) == []


def test_a_step_that_was_not_shared_out_whole_is_found() -> None:
    assert off(record(), logs={("n", "b-1"): EngineLog({"0": (7, 3, 700)}, 701)}) == [("steps", 700, 701)]


def test_a_counter_of_metrics_that_says_something_else_is_found_while_nothing_runs() -> None:
    page = 'nearfield_generation_tokens_total{model_name="acme/m"} 4\n'
    quiet, busy = Running("n", "b", frozenset(), page), Running("n", "b", frozenset({("b-1", "9")}), page)

    assert off(record(), running=[quiet]) == [("/metrics generation tokens", 3, 4)]
    assert off(record(), running=[busy]) == []
    assert off(record(), running=[Running("n", "b", frozenset(), page.replace("4", "3"))]) == []


def test_objects_and_nodes_are_read_alike() -> None:
    found, said = Found(), value(orders=[0, 2], computed_tokens=12, device_us=750)
    line = Record.of(said)
    found.take_object(
        "usage/iad/n/engines/b-1.0000.jsonl", b'{"order":"0","computed":7,"sampled":3,"us":700}\n'
    )
    found.take_object("usage/iad/n/engines/b-1.live.jsonl", b'{"total_us":750,"running":{"1":[5,0,50]}}\n')
    node = {"node": "n", "boot": "b", "records": [said], "open": [], "engines": {}, "metrics": ""}
    found.take_node(node | {"metrics": 'nearfield_generation_tokens_total{model_name="acme/m"} 3\n'})

    assert found.records == [line]
    assert differences(found.records, found.logs, found.running) == []
    for key, data in (
        ("usage/iad/n/engines/b-1.0000.jsonl", b"{}"),
        ("usage/iad/n/2026-11-26/1.jsonl", b"{}"),
    ):
        with pytest.raises(RecordError):
            found.take_object(key, data)
    with pytest.raises(RecordError):
        found.take_node(node | {"open": [{}]})
