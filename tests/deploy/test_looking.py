"""A command of many short steps says what it is at whenever it was silent for a moment, and only then."""

import json
import threading

from deploy.commands import doctor
from deploy.doctor import examine
from deploy.doctor.finding import Finding
from deploy.terminal import looking
from deploy.terminal.exits import Exit
from deploy.terminal.looking import SILENT_S, Looking


def test_a_step_is_said_once_when_nothing_was_said_for_a_moment():
    said, now = [], [0.0]
    one = Looking("the disk", say=said.append, clock=lambda: now[0])

    def at(now_s):
        now[0] = now_s
        return one.look()

    assert at(0.0) == SILENT_S
    one.turn_to("the clock")
    assert at(SILENT_S - 0.5) == 0.5
    assert said == [], "who is quick says nothing"
    assert at(SILENT_S) == SILENT_S
    at(2 * SILENT_S)
    assert said == ["looking at the clock …"], "not again and again"
    one.turn_to("ports")
    assert at(2 * SILENT_S) == SILENT_S
    assert said[1:] == ["looking at ports …"]
    one.turn_to("stores")
    assert at(2 * SILENT_S + 1.0) == SILENT_S - 1.0
    assert len(said) == 2


def test_doctor_says_which_check_takes_long_and_its_document_stays_one(tmp_path, monkeypatch, capsys):
    is_said = threading.Event()

    def say(line):
        looking.say(line)
        if "slow" in line:
            is_said.set()

    def check(_state):
        assert is_said.wait(60)
        yield Finding("slow", well=True, seen="done")

    monkeypatch.setattr(looking, "SILENT_S", 0.01)
    monkeypatch.setattr(looking, "Looking", lambda what: Looking(what, say=say))
    monkeypatch.setattr(examine, "OF_MACHINE", {"something slow": check})
    code = doctor.run(tmp_path, as_json=True)

    out, err = capsys.readouterr()
    assert "looking at something slow …" in err
    assert [each["name"] for each in json.loads(out)] == ["slow", "platform"]
    assert code == Exit.NOT_READY, "nothing runs there"
