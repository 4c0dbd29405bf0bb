"""A command that waits says for whom, and ends; what is said stays out of the document for programs."""

import asyncio
import json
import socket
from contextlib import closing

import pytest

from deploy import client as client_module
from deploy.client import Client, Unreachable
from deploy.faults import Silent
from deploy.terminal import patience
from deploy.terminal.exits import Exit
from deploy.terminal.failing import errors
from deploy.terminal.patience import GIVE_UP_S, SAY_AFTER_S, Silence
from deploy.trust.credentials import Credentials
from tests.wire.certs import make_certificate


@pytest.fixture
def stopped():
    """The address of a process that is stopped: connections are taken by the kernel, and nobody answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(patience, "SAY_AFTER_S", 0.0)


class Watched:
    """A silence with a clock of its own, and what it said."""

    def __init__(self):
        self.now, self.said = 0.0, []
        self.one = Silence("the store", tell=self.said.append, clock=lambda: self.now)

    def at(self, now):
        self.now = now
        return self.one.look()


def test_it_is_said_once_after_seconds_and_ends_at_the_time_that_is_said():
    watched = Watched()
    assert watched.at(0.0) == SAY_AFTER_S
    assert not watched.said
    assert watched.at(SAY_AFTER_S) == GIVE_UP_S - SAY_AFTER_S
    watched.at(GIVE_UP_S - 1)
    (line,) = watched.said
    assert line.startswith("nothing heard from the store for 3 s; trying until ")
    with pytest.raises(Silent, match="the store does not answer: nothing was heard for 30 s"):
        watched.at(GIVE_UP_S)


def test_whoever_is_heard_is_waited_for_anew_and_another_is_named():
    watched = Watched()
    watched.at(GIVE_UP_S - 1)
    watched.one.heard()
    assert watched.at(GIVE_UP_S) == SAY_AFTER_S - 1, "a long work of which something came has not ended"
    watched.one.turn_to("the other")
    watched.at(GIVE_UP_S + SAY_AFTER_S)
    assert [line.split(" for ")[0].split(" from ")[1] for line in watched.said] == ["the store", "the other"]


@pytest.mark.usefixtures("at_once")
def test_a_work_that_never_ends_is_cancelled(capsys):
    ended = []

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(Silent):
        patience.ask(forever(), "nobody", give_up_s=0.3)
    assert ended
    assert "nothing heard from nobody" in capsys.readouterr().err


def test_a_work_that_ends_says_nothing_and_its_errors_are_its_own(capsys):
    async def fails():
        patience.heard()
        patience.turn_to("somebody")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        patience.ask(fails(), "nobody")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("at_once")
def test_an_edge_that_is_stopped_is_named_and_given_up(stopped, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(client_module, "CONNECT_S", 1.0)  # whoever looks on may be late by less
    url = f"https://{stopped}"
    ca = str(make_certificate(tmp_path)[2])
    known = Credentials(f"{url}/v1", "key", url, "key", url, "id", "secret", ca, str(tmp_path))
    with pytest.raises(Unreachable, match="does not answer"):
        Client(known, admin=True).get("/nearfield/status")
    assert f"nothing heard from the platform at {stopped}" in capsys.readouterr().err


def test_for_programs_there_is_one_document_and_the_status_of_a_wait_that_was_too_long(capsys):
    import typer

    with pytest.raises(typer.Exit) as ended, errors(as_json=True):
        patience.ask(asyncio.sleep(60), "the home store in region iad", give_up_s=0.0)
    assert ended.value.exit_code == Exit.TIMEOUT
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "no_answer"
    assert error["next"] == "nearfield doctor"
    assert "the home store in region iad does not answer" in error["message"]
