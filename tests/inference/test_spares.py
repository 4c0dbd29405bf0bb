"""Spares: forked ahead, used once, replaced, never too many; with a device that is only pretended."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.link import FrameReader, frame_bytes, link_pair
from inference.spares import RETRY_S, Roster
from inference.workers.shell.zygote import PACKAGE_ROOT

SHELL = """
import json, os, socket, sys
from pathlib import Path
import inference.shell as shell, inference.spares as spares
state = Path(sys.argv[2])
mine = lambda: state / str(os.getpid())

def bring_up(device):
    mine().write_text(device)
    way = (state / "way").read_text()
    os._exit(9) if way == "crash" else None
    return "no such device" if way == "broken" else ""

def be_engine(spec, fds, mold=None):
    link = socket.socket(fileno=fds[3])
    link.sendall(json.dumps([os.getpid(), mine().exists(), spec.config]).encode() + b"\\n")
    link.recv(1)

shell._be_engine, spares.HAND_OVER_S = be_engine, 0.3
pool = spares.SparePool("cuda:0", int(sys.argv[3]), bring_up)
shell.Shell(socket.socket(fileno=int(sys.argv[1])), pool).serve(0.0)
"""


class Node:
    """The node's side, plain and blocking."""

    def __init__(self, sock, pid, state):
        self.sock, self.pid, self.state = sock, pid, state
        self.frames, self.heard = FrameReader(), []
        self.links = []

    def until(self, op, count=1):
        """The first `count` messages of that kind that were not asked for yet."""
        while sum(message["op"] == op for message in self.heard) < count:
            data = self.sock.recv(65536)
            assert data, f"the shell ended; it said {self.heard}"
            self.heard += self.frames.receive(data)
        found = [message for message in self.heard if message["op"] == op][:count]
        for message in found:
            self.heard.remove(message)
        return found

    def fork(self, device="cuda:0", config=None):
        """(the shell's answer, what the engine says of itself)."""
        own, theirs = link_pair()
        self.links.append(own)
        spec = {"revision": {}, "config": config or {}, "device": device}
        with theirs:
            fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
            data = frame_bytes({"op": "fork", "seq": 1, "spec": spec})
            socket.send_fds(self.sock, [data[:4]], [*fds, theirs.fileno()])
            self.sock.sendall(data[4:])
            for fd in fds:
                os.close(fd)
        (answer,) = self.until("forked")
        return answer, json.loads(own.makefile().readline())

    def children(self):
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


@contextmanager
def shell(state, num_spares, way="up"):
    (state / "way").write_text(way)
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", SHELL, str(theirs.fileno()), str(state), str(num_spares)],
            pass_fds=[theirs.fileno()],
            env=os.environ | {"PYTHONPATH": PACKAGE_ROOT},
        )
    node = Node(ours, process.pid, state)
    try:
        yield node
    finally:
        ours.close()
        process.wait(60)
        for link in node.links:
            link.close()


def test_each_is_used_once_and_replaced_and_there_are_never_more(tmp_path):
    with shell(tmp_path, 2) as node:
        first = [message["pid"] for message in node.until("spare_ready", 2)]
        used = []
        for number in range(3):
            assert len(node.children()) == 2 + number
            answer, (pid, is_up, config) = node.fork(config={"n": number})
            assert (answer["spare"], answer["pid"], is_up, config) == (True, pid, True, {"n": number})
            used.append(pid)
            node.until("spare_ready")
        assert used[:2] == first, "who waited longest goes first"
        assert len(set(used)) == 3
        assert len(node.children()) == 2 + 3


def test_an_engine_on_another_device_is_forked_bare(tmp_path):
    with shell(tmp_path, 1) as node:
        node.until("spare_ready")
        answer, (_, is_up, _) = node.fork(device="cpu")
        assert (answer.get("spare"), is_up) == (None, False)


def test_one_that_dies_is_replaced(tmp_path):
    with shell(tmp_path, 1) as node:
        (first,) = node.until("spare_ready")
        os.kill(first["pid"], signal.SIGKILL)
        (ended,) = node.until("spare_ended")
        assert (ended["pid"], ended["fault"]) == (first["pid"], "its exit status is -9")
        (second,) = node.until("spare_ready")
        answer, (pid, is_up, _) = node.fork()
        assert (answer["pid"], pid, is_up) == (second["pid"], second["pid"], True)


def test_one_that_does_not_listen_is_killed_and_nobody_waits_for_it(tmp_path):
    with shell(tmp_path, 1) as node:
        (first,) = node.until("spare_ready")
        os.kill(first["pid"], signal.SIGSTOP)
        big = {"text": "x" * 4_000_000}  # more than a socket holds
        answer, (pid, _, config) = node.fork(config=big)
        assert pid == answer["pid"] != first["pid"]
        assert config == big


@pytest.mark.parametrize(("way", "fault"), [("broken", "no such device"), ("crash", "its exit status is 9")])
def test_a_device_that_does_not_come_up_is_told_and_costs_no_engine(tmp_path, way, fault):
    """Engines are forked bare, and say themselves what is wrong; when the device is back, so are the spares."""
    with shell(tmp_path, 2, way) as node:
        assert {message["fault"] for message in node.until("spare_ended", 2)} == {fault}
        answer, (pid, is_up, _) = node.fork()
        assert (answer.get("spare"), answer["pid"], is_up) == (None, pid, False)
        (tmp_path / "way").write_text("up")
        node.until("spare_ready")


def test_without_spares_nothing_is_forked_ahead(tmp_path):
    with shell(tmp_path, 0) as node:
        node.until("hello")
        answer, (_, is_up, _) = node.fork()
        assert (answer.get("spare"), is_up) == (None, False)
        assert node.children() == [answer["pid"]]


events = st.lists(st.tuples(st.sampled_from(["due", "up", "take", "end"]), st.integers(0, 5)), max_size=40)


@given(st.integers(0, 3), events)
def test_the_roster_never_holds_too_many_and_gives_each_once(num_wanted, events):
    roster, now, num_forked, taken = Roster(num_wanted), 0.0, 0, []
    for event, number in events:
        now += 0.1
        held = [*sorted(roster.warming), *roster.ready]
        if event == "due" and roster.is_due(now):
            num_forked += 1
            roster.note_forked(num_forked)
        elif event == "up" and roster.warming:
            roster.note_ready(min(roster.warming))
        elif event == "take" and (pid := roster.take()) is not None:
            taken.append(pid)
        elif event == "end" and held:
            pid = held[number % len(held)]
            assert roster.note_end(pid, now)
            assert not roster.note_end(pid, now)
            assert not roster.is_due(now), "one that ends by itself is not replaced in a loop"
        assert len(roster.warming) + len(roster.ready) <= num_wanted
        assert len(roster.warming) <= 1
        assert not set(taken) & {*roster.warming, *roster.ready}
    assert len(taken) == len(set(taken))
    if len(roster.warming) + len(roster.ready) < num_wanted and not roster.warming:
        assert roster.is_due(now + roster.next_due_s(now)), "a free place is filled in the end"


def test_failures_in_a_row_space_the_attempts_out():
    roster, now, waits = Roster(1), 0.0, []
    for pid in range(6):
        now += roster.next_due_s(now)
        roster.note_forked(pid)
        roster.note_end(pid, now)
        waits.append(roster.next_due_s(now))
    assert waits == pytest.approx([*RETRY_S, RETRY_S[-1], RETRY_S[-1]])
    roster.note_forked(7)
    roster.note_ready(7)
    assert roster.num_failures == 0
