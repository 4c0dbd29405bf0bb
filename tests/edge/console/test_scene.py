"""Looks made a picture: what moved, what is new, and what a request's receipts come to. Pure."""

import itertools
import json
from dataclasses import replace

import pytest

from edge.console.scene import MODELS_A_PIECE, WINDOW_S, Look, Scene, Seen
from edge.pops.hear import Other
from edge.receipts.kept import MAX_KEPT, OK, Flow, Receipts
from edge.receipts.receipt import Receipt, told_in
from edge.receipts.shown import shown
from regions.map.region import Progress, RegionRow, Tier
from regions.pops import Passage, Word
from regions.rows import Heard
from tests.edge.world import served

MB = 1_000_000


def seen(models):
    return Seen(Heard(RegionRow("x", 1, 1, models), b"", 0.0), 0.2, 1.5, "closed", is_down=False)


def look(at, regions, *flows):
    return Look(
        at, {name: seen(models) for name, models in regions.items()}, flows or (flow(),), {"home": "iad"}
    )


def flow(num=0, receipts=(), failed=0, **answered):
    return Flow(num, answered, failed, {}, tuple(receipts))


def test_rates_are_what_grew_in_the_window():
    scene = Scene(1)
    for second in range(31):
        scene.saw(look(float(second), {"iad": {}}, flow(second * 4, iad=4 * second, failed=second)))
    assert scene.state["regions"]["iad"]["answers_per_s"] == 4.0
    assert scene.state["failed_per_s"] == 1.0
    for second in range(31, 31 + int(WINDOW_S) + 2):
        scene.saw(look(float(second), {"iad": {}}, flow(120, iad=120, failed=30)))
    assert scene.state["regions"]["iad"]["answers_per_s"] == 0.0


def test_processes_are_added_up_and_one_that_is_new_takes_nothing_away():
    scene = Scene(2)
    scene.saw(look(0.0, {"iad": {}}, flow(10, iad=10), flow(20, iad=20)))
    scene.saw(look(5.0, {"iad": {}}, flow(20, iad=20), flow(30, iad=30)))
    assert scene.state["regions"]["iad"]["answers_per_s"] == 4.0
    scene.saw(look(6.0, {"iad": {}}, flow(20, iad=20), flow(1, iad=1)))
    assert scene.state["regions"]["iad"]["answers_per_s"] >= 0.0


def other(answered, failed=0):
    return Other(Word("two", 3, failed, {"iad": Passage(answered, 2, 9.5, down=False)}), 0.5)


def test_another_edges_rates_begin_where_it_is_first_heard_of():
    """Its counts are of its whole life: what it had answered by then is no burst."""
    scene = Scene(1)
    for second in range(5):
        others = {"two": other(1000 + 8 * second, 500 + 4 * second)} if second else {}
        others["three"] = Other(None, None)
        scene.saw(replace(look(float(second), {"iad": {}}), others=others))
    two, three = (scene.state["edges"][name] for name in ("two", "three"))
    assert two["regions"]["iad"] == {"rtt_ms": 9.5, "down": False, "busy": 2, "answers_per_s": 6.0}
    assert (two["failed_per_s"], two["processes"], two["heard_s"]) == (3.0, 3, 0.5)
    assert three == {"heard_s": None, "processes": 0, "failed_per_s": 0.0, "regions": {}}


def test_another_edge_that_began_anew_has_no_rate_below_nothing():
    scene = Scene(1)
    for second, answered in enumerate((100, 200, 3)):
        scene.saw(replace(look(float(second), {"iad": {}}), others={"two": other(answered)}))
    assert scene.state["edges"]["two"]["regions"]["iad"]["answers_per_s"] == 0.0


@pytest.mark.parametrize(
    ("region", "steps", "pulled", "loaded"),
    [
        ("fra", [None, (Tier.ORIGIN, "replicate", 50), (Tier.REGION, None, 0)], 10 * MB, 0),
        ("iad", [None, (Tier.REGION, None, 0)], 0, 0),  # it was pushed there
        ("fra", [(Tier.REGION, None, 0), (Tier.REGION, "fetch", 40), (Tier.RESIDENT, None, 0)], 0, 10 * MB),
        ("fra", [(Tier.REGION, None, 0), (Tier.RESIDENT, None, 0)], 0, 10 * MB),
        ("fra", [(Tier.RESIDENT, None, 0), (Tier.REGION, None, 0)], 0, 0),  # cooled
        ("fra", [(Tier.HOST, None, 0), (Tier.RESIDENT, "attach", 50)], 0, 0),
    ],
)
def test_bytes_are_counted_once_however_a_row_tells_of_them(region, steps, pulled, loaded):
    scene, other = Scene(1), served()
    for at, step in enumerate(steps):
        models = {"a/other": other}
        if step is not None:
            tier, phase, percent = step
            progress = Progress(phase, float(percent)) if phase else None
            models["a/b"] = served(bytes=10 * MB, tier=tier, progress=progress)
        scene.saw(look(float(at * 5), {region: models}))
    span = 5 * (len(steps) - 1)
    said = scene.state["regions"][region]
    assert said["from_home_bytes_per_s"] == round(pulled / span)
    assert said["loading_bytes_per_s"] == round(loaded / span)


def test_a_page_is_told_what_changed_and_no_more():
    scene, rows, told = Scene(1), {f"a/m{number}": served() for number in range(1000)}, {}
    scene.saw(look(0.0, {"iad": rows, "fra": {}}))
    pieces = list(scene.models(told))
    assert max(sum(map(len, piece.values())) for piece in pieces) <= MODELS_A_PIECE
    assert {name for piece in pieces for name in piece.get("iad", {})} == set(rows)
    assert list(scene.models(told)) == []
    changed = {name: row for name, row in rows.items() if name != "a/m7"} | {"a/m8": served(running=1)}
    scene.saw(look(1.0, {"iad": changed, "fra": {}}))
    (piece,) = scene.models(told)
    assert piece["iad"].keys() == {"a/m7", "a/m8"}
    assert piece["iad"]["a/m7"] is None
    assert piece["iad"]["a/m8"]["running"] == 1


def test_requests_are_told_once_to_each_page():
    scene, numbers = Scene(1), itertools.count(1)
    first = [{"at": float(next(numbers))} for _ in range(3)]
    scene.saw(look(0.0, {"iad": {}}, flow(3, first)))
    assert scene.receipts(0) == first
    assert scene.cursors == [3]
    scene.saw(look(1.0, {"iad": {}}, flow(4, [{"at": 9.0}])))
    assert scene.receipts(3) == [{"at": 9.0}]
    assert scene.receipts(4) == []
    assert len(scene.receipts(0)) == 4


def receipt(number, **changes):
    values = {
        "region": "iad",
        "status": OK,
        "is_streamed": False,
        "total_ms": 2.0,
        "phases": {"read": 1.0},
    } | changes
    return Receipt(1.0, f"req_{number}", "a/b", "acme", "0" * 12, "/v1/embeddings", **values)


def test_the_last_requests_are_kept_and_asked_for_by_number():
    found = Receipts()
    for number in range(MAX_KEPT + 10):
        found.note(receipt(number, status=200 if number % 2 else 503))
    assert (found.num, found.failed, found.answered["iad"]) == (
        MAX_KEPT + 10,
        MAX_KEPT // 2 + 5,
        MAX_KEPT + 10,
    )
    assert [each["id"] for each in found.since(MAX_KEPT + 8)] == [
        f"req_{MAX_KEPT + 8}",
        f"req_{MAX_KEPT + 9}",
    ]
    assert len(found.since(0)) == MAX_KEPT
    assert found.since(MAX_KEPT + 10) == []
    assert len(found.since(10**6)) == MAX_KEPT, "of a process that began anew"


def test_a_whole_answers_hops_are_read_from_its_head():
    head = b"\nServer-Timing: node;dur=3.5, node.prefill;dur=2.0, gateway;dur=4.0, gateway.pick;dur=0.1\r"
    head += b"\nx-nearfield-start: host\r"
    said = shown(receipt(1, head=head + b"\nx-nearfield-tokens: 12 7\r\nx-nearfield-remote-bytes: 5\r"))
    assert [(each["hop"], each["total_ms"]) for each in said["hops"]] == [
        ("edge", 2.0),
        ("gateway", 4.0),
        ("node", 3.5),
    ]
    assert said["hops"][2]["phases"] == {"prefill": 2.0}
    assert (said["start"], said["tokens"], said["remote_bytes"]) == ("host", 7, 5)


def test_a_streams_hops_are_read_from_the_receipts_that_came_in_it():
    """The node's own words of the request, and of its start whoever woke it."""
    node = {"hop": "node", "total_ms": 3.5, "phases": {"prefill": 2.0, "odd": "x"}, "start": "host"}
    node |= {"time_to_first_token_ms": 2.5, "completion_tokens": 7, "bytes": {"host": 1}}
    gateway = {"hop": "gateway", "total_ms": 4, "phases": {"hold": 1.0}}
    strange = {"hop": "proxy", "total_ms": 9.0}
    said = shown(receipt(1, told=receipts_of(node, strange, gateway)))
    assert said["hops"] == [
        {"hop": "edge", "total_ms": 2.0, "phases": {"read": 1.0}},
        {"hop": "gateway", "total_ms": 4, "phases": {"hold": 1.0}},
        {"hop": "node", "total_ms": 3.5, "phases": {"prefill": 2.0}},
    ]
    assert (said["start"], said["ttft_ms"], said["tokens"]) == ("host", 2.5, 7)
    assert (said["bytes"], said["start_phases"]) == ({"host": 1}, {})

    woken = gateway | {"start_phases": {"fetch": 5.0}, "bytes": {"region": 2}}
    said = shown(receipt(1, told=receipts_of(node, woken)))
    assert (said["bytes"], said["start_phases"]) == ({"region": 2}, {"fetch": 5.0})


def receipts_of(*hops):
    return b"".join(b": nearfield " + json.dumps(each).encode() + b"\n\n" for each in hops)


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b": nearfield {",
        b": nearfield []\n\n",
        b': nearfield {"hop": "node", "phases": 3}\n\n',
        b"\xff\xfe\n",
    ],
)
def test_what_a_hop_says_wrong_is_left_out(told):
    assert (
        shown(receipt(1, told=told, head=b"\xff\r\n:::\r\nserver-timing: ;;dur=x\r\n"))["hops"][0]["hop"]
        == "edge"
    )


def test_receipts_are_found_behind_events_and_nothing_of_an_answer_is_taken():
    line = b': nearfield {"hop": "node"}\n\n'
    assert told_in(line + line) == line + line
    assert told_in(b"data: {}\n\n" + line) == b"\n" + line
    assert told_in(b"\n" + line) == b"\n" + line
    assert told_in(b'data: {"content": ": nearfield {\\"hop\\": "}\n\n') == b""
    assert told_in(b': nearfield {"phase": "fetch", "percent": 3}\n\n') == b""
