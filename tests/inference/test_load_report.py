"""What a start says of itself: phases that exclude each other and make up its wall time."""

from types import SimpleNamespace
from typing import Any

import pytest

from inference.api.stay.visit import Visit
from inference.workers.loading import LoadReport
from inference.workers.residency.life import State
from inference.workers.worker import Worker

LAPS = ("queue", "prepare", "fork", "engine", "text")
LANDING = SimpleNamespace(
    phases={"fetch": 3.0, "verify": 1.0},
    source="region",
    bytes_read=0,
    shared_bytes=0,
    mapped_bytes=0,
    copied_bytes=0,
    host_bytes=0,
    progress=lambda: SimpleNamespace(total_bytes=100),
)


@pytest.mark.parametrize(
    ("fork_ms", "engine_ms", "birth_ms", "fork_says", "boot_says"),
    [
        (10.0, 20.0, 8.0, 8.0, 12.0),
        (10.0, 20.0, 10.0, 10.0, 10.0),
        (18.0, 2.0, 18.0, 10.0, 0.0),  # at work for 8 ms before its shell came to say that it was born
        (1.0, 9.0, 0.5, 0.0, 0.0),
    ],
)
def test_phases_make_up_the_wall_time(fork_ms, engine_ms, birth_ms, fork_says, boot_says):
    """Whichever process was scheduled first: what two clocks saw at once counts once."""
    laps = {"queue": 5.0, "prepare": 2.0, "fork": fork_ms, "engine": engine_ms, "text": 0.0}
    report = LoadReport()
    ready = {"phases": {"wait": 4.0, "attach": 5.0, "warm": 1.0}}
    report.note_ready(ready, LANDING, laps, ("fork", birth_ms), sum(laps.values()))

    assert sum(report.phases.values()) == pytest.approx(report.total_ms)
    assert (report.phases["fork"], report.phases["boot"]) == (fork_says, boot_says)
    assert (report.phases["fetch"], report.phases["verify"]) == (3.0, 1.0)


def test_what_the_copies_took_is_on_the_receipt_of_the_request_they_began_with():
    """The engine tells it when they are over, long after that request has arrived."""
    nothing: Any = SimpleNamespace(
        id="r", model="a/m", spec=SimpleNamespace(deterministic=False), leave=lambda: None
    )
    worker = Worker(nothing, nothing, nothing, nothing, nothing, now=lambda: 0.0, make_way=nothing)
    worker.state, worker._model = State.RESIDENT, nothing
    worker.report.note_ready(
        {"phases": {}, "h2d_bytes": 100}, LANDING, dict.fromkeys(LAPS, 1.0), ("fork", 1.0), 5.0
    )
    visit = Visit.of(None, "host")
    visit.arrive(worker, "request")
    before = visit.receipt(1, 1)
    worker._start.hear({"op": "stats", "h2d_ms": 1.5})
    told = visit.receipt(1, 1)

    assert b'"h2d_ms":null' in before.replace(b" ", b"")
    assert b'"h2d_ms":1.5' in told.replace(b" ", b"")
