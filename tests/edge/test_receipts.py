"""What is kept of requests: how each ended and where, and nothing of what was said in them."""

from types import SimpleNamespace

import pytest

from edge.admission.admit import Action, Admission
from edge.receipts.kept import MAX_TOLD_BYTES, Receipts
from edge.receipts.receipt import FORM
from regions.map.policy import KeyGrant
from wire.timing import Phases

ADMISSION = Admission(Action.INFER, "d" * 64, KeyGrant("acme", frozenset({"infer"})))
HEAD = (("x-nearfield-start", "host"), ("x-secret", "prompt"), ("x-nearfield-tokens", "12 7"))


def test_a_request_of_a_lane_is_kept_as_it_was_passed():
    found = Receipts()
    course = SimpleNamespace(admission=ADMISSION, who=("iad", "a/m", "acme"), path="/v1/completions")
    passing = SimpleNamespace(standing=SimpleNamespace(course=course), number=b"req_1", streams=True)
    told = b"x" * MAX_TOLD_BYTES + b'\n: nearfield {"hop": "node"}\n\n'  # more than is looked at
    found.passed(passing, FORM.timing % (9.0, 1.0, 2.0, 3.0, 3.0), b"\nx-nearfield-start: warm\r", told)

    assert (found.num, dict(found.answered), found.failed) == (1, {"iad": 1}, 0)
    [said] = found.since(0)
    assert {
        name: said[name] for name in ("id", "model", "tenant", "key", "path", "region", "status", "streamed")
    } == {
        "id": "req_1",
        "model": "a/m",
        "tenant": "acme",
        "key": "d" * 12,
        "path": "/v1/completions",
        "region": "iad",
        "status": 200,
        "streamed": True,
    }
    assert (said["start"], said["total_ms"]) == ("warm", 9.0)
    assert said["hops"][0]["phases"] == {"read": 1.0, "route": 2.0, "first_byte": 3.0, "stream": 3.0}
    assert [each["hop"] for each in said["hops"]] == ["edge"]


@pytest.mark.parametrize(
    ("status", "finished", "disconnected", "kept"),
    [
        (200, True, False, (200, "")),
        (200, False, True, (200, "client_gone")),
        (0, False, True, (499, "client_gone")),
        (503, True, False, (503, "")),
        (0, False, False, None),
    ],
)
def test_a_request_of_the_relay_is_kept_by_how_it_ended(status, finished, disconnected, kept):
    """One that nothing was said of yet will be refused, and is told then."""
    journey = SimpleNamespace(
        exchange=SimpleNamespace(
            status=status, finished=finished, disconnected=disconnected, head=SimpleNamespace(path="/v1/x")
        ),
        request_id="req_2",
        ask=SimpleNamespace(model="a/m", stream=False),
        admission=ADMISSION,
        answered_in="fra",
        phases=Phases("edge", lambda: 0.0),
        answer_head=HEAD,
        receipts=[b': nearfield {"hop": "node", "start": "warm"}\n\n'],
        setbacks=[SimpleNamespace(region="iad", cause="timeout")],
    )
    found = Receipts()
    found.travelled(journey)

    said = found.since(0)
    assert [(each["status"], each["code"]) for each in said] == ([] if kept is None else [kept])
    assert found.failed == (kept is not None and kept[0] != 200)
    for each in said:
        assert (each["start"], each["tokens"], each["replayed"]) == ("host", 7, ["iad (timeout)"])
        assert "prompt" not in str(each)
