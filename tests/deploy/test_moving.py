"""What a push shows while it moves: bars with bytes, rate, time and the bytes' way on a terminal; lines elsewhere."""

import io
import re
from dataclasses import replace

from rich.console import Console

from deploy.commands import push as command
from deploy.models.push import PushPlan
from deploy.models.standing import Standing
from deploy.plan import landing, memory
from deploy.plan.moving import Moving, way_of, words
from deploy.plan.plan import Known, make
from regions.map.region import RolloutState

TOTAL = 10_000_000
PLAN = make(
    PushPlan("acme/m", None, {"model.safetensors": TOTAL}, {}),
    memory.Needs(TOTAL, 0),
    ("iad", "fra"),
    Known(bodies={}, home="iad", held_bytes={}),
)


def _standing(region, state, percent=None, eta_s=None):
    return Standing(region, state, None, None, percent, None, eta_s)


NOW = {"iad": _standing("iad", "warming", 40.0, 1.5), "fra": _standing("fra", "verified", 25.0)}


def _shown(*, is_terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=160, color_system=None)
    with Moving(console, PLAN) as moving:
        moving.sent(TOTAL // 2)
        moving.sent(TOTAL // 2)
        moving.committed("ab" * 32)
        moving.changed(NOW)
        moving.changed({"iad": _standing("iad", "live"), "fra": NOW["fra"]})
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())


def test_a_terminal_sees_bytes_and_where_they_come_from():
    """A bar for the upload and one for each region; the last frame stays."""
    last = {line.split()[0]: line for line in _shown(is_terminal=True).splitlines() if line.strip()}

    assert "10.0/10.0 MB" in last["upload"]
    assert "disk → bucket" in last["upload"]
    assert "2.5/10.0 MB" in last["fra"]
    assert "home → fra's store" in last["fra"]
    assert "10.0/10.0 MB" in last["iad"]
    assert re.search(r"\d+:\d\d:\d\d|-:--:--", last["fra"])


def test_a_pipe_sees_a_line_for_each_change():
    lines = _shown(is_terminal=False).splitlines()

    assert lines == [
        f"  revision {'ab' * 8}",
        "  iad warming 40% (iad's store → host, 1.50 s to go)   fra verified 25% (home → fra's store)",
        "  iad live   fra verified 25% (home → fra's store)",
    ]


def test_what_keeps_a_region_is_said_while_it_waits():
    """On a terminal in the place of the way that its bytes do not take."""
    full = {"code": "InsufficientStorage", "message": "The store's disk is full.", "next": "free some"}
    waits = replace(NOW["fra"], error=full)

    assert words(waits) == "verified (The store's disk is full.)"
    assert way_of(waits) == "The store's disk is full."


def test_every_step_has_a_way_or_its_own_name():
    assert words(_standing("iad", "absent")) == "waiting"
    for state in RolloutState:
        assert way_of(_standing("iad", str(state)))


def _said(act):
    file = io.StringIO()
    with Moving(Console(file=file, width=200, color_system=None), PLAN) as moving:
        found = act(moving)
    return found, file.getvalue()


def test_a_state_folder_that_takes_nothing_ends_no_push(tmp_path):
    """Without notes it goes on, and what became of the plan is not kept; both are said."""
    (tmp_path / command.UPLOADS).touch()
    found, said = _said(lambda moving: command._notes(tmp_path, moving))
    assert found is None
    assert f"{tmp_path / command.UPLOADS} cannot be written" in said

    _, said = _said(lambda moving: landing._keep(tmp_path / "gone", [], moving))
    assert f"not kept for later plans: No such file or directory: {tmp_path / 'gone'}" in said


def test_a_state_folder_gets_a_place_for_notes_that_is_its_owners(tmp_path):
    found, said = _said(lambda moving: command._notes(tmp_path, moving))
    assert found == tmp_path / command.UPLOADS
    assert found.stat().st_mode & 0o777 == 0o700
    assert not said
