"""Handshakes in turns: of any number of strangers who have spoken one begins in a turn of the loop, and then none."""

import asyncio
import contextlib
import socket
from functools import partial
from itertools import groupby, pairwise

import pytest

from tests.wire.test_serve import GET, hello, serving, until
from wire import serve
from wire.http.limits import Limits
from wire.listener.endings import Cause, Endings
from wire.listener.handshakes import AT_ONCE, OTHERS_TURNS, Handshakes
from wire.listener.roster import Roster
from wire.secured.secure import Secured


@pytest.fixture
def pairs():
    """Connected sockets: what was taken, and who it is taken from."""
    made = [socket.socketpair() for _ in range(12)]
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


async def test_one_begins_in_a_turn_and_only_who_has_spoken(pairs, monkeypatch):
    roster, begun, turn = Roster(hello, Limits()), [], 0
    handshakes = Handshakes(roster, tls=object())

    async def arrive(guest):
        begun.append((turn, guest.host))
        await asyncio.sleep(0)

    monkeypatch.setattr(handshakes, "_arrive", arrive)
    for number, (ours, theirs) in enumerate(pairs):
        handshakes.begin(ours, str(number))
        if number % 2:
            theirs.send(b"hello")
    assert roster.arriving.total() == len(pairs)
    while len(begun) < len(pairs) // 2:
        turn += 1
        await asyncio.sleep(0)
    assert sorted(int(host) for _, host in begun) == list(range(1, len(pairs), 2))
    turns = [turn for turn, _ in begun]
    assert max(turns.count(each) for each in turns) == AT_ONCE
    assert {later - turn for turn, later in pairwise(turns)} == {1 + OTHERS_TURNS}
    await handshakes.give_up()
    assert not roster.arriving
    assert all(ours.fileno() == -1 for ours, _ in pairs[::2]), "who said nothing is dropped"


async def test_who_waits_for_its_turn_is_not_late(tls, monkeypatch):
    """A client that has said its last word of a handshake goes on, and may have asked: its time is over with ours."""
    held, endings = [], Endings()
    in_turn = Handshakes._in_turn

    def hold(handshakes, step):
        held.append(partial(in_turn, handshakes, step))

    monkeypatch.setattr(Handshakes, "_in_turn", hold)
    limits = Limits(handshake_s=0.3)
    async with serving(hello, tls=tls[0], limits=limits, endings=endings) as server:
        opening = asyncio.ensure_future(
            asyncio.open_connection("127.0.0.1", server.port, ssl=tls[1], server_hostname="localhost")
        )
        await until(lambda: held)
        held.pop()()
        answer, writer = await asyncio.wait_for(opening, 30)
        writer.write(GET % b"")
        await until(lambda: held)
        await asyncio.sleep(0.5)
        while held:
            held.pop()()
        assert (await asyncio.wait_for(answer.readline(), 30)).startswith(b"HTTP/1.1 200")
        writer.close()
    assert not endings.num


async def test_who_drips_through_a_handshake_has_no_more_time_for_it(tls):
    endings = Endings()
    limits = Limits(handshake_s=0.5)
    async with serving(hello, tls=tls[0], limits=limits, endings=endings) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        began = asyncio.get_running_loop().time()
        for byte in b"\x16\x03\x01\x02\x00\x01" + bytes(60):
            if endings.num:
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)
        assert endings.num == {Cause.TLS_LATE: 1}
        assert asyncio.get_running_loop().time() - began < 0.5 + 2.0
        writer.close()


async def test_each_step_of_a_handshake_has_a_turn_of_its_own(tls, monkeypatch):
    """A crowd's answers come together too, and are a quarter of its handshakes."""
    loop, turn, steps, num = asyncio.get_running_loop(), [0], [], 12

    def tick():
        turn[0] += 1
        turning[0] = loop.call_soon(tick)

    shake = Secured._shake

    def noted(secured):
        steps.append(turn[0])
        shake(secured)

    monkeypatch.setattr(Secured, "_shake", noted)
    async with serving(hello, tls=tls[0]) as server:
        turning = [loop.call_soon(tick)]
        opening = [
            asyncio.open_connection("127.0.0.1", server.port, ssl=tls[1], server_hostname="localhost")
            for _ in range(num)
        ]
        made = await asyncio.gather(*opening)
        await until(lambda: server.num_connections == num)
        turning[0].cancel()
        for _, writer in made:
            writer.transport.abort()
    assert len(steps) >= 2 * num
    assert max(steps.count(each) for each in steps) == AT_ONCE
    assert min(later - turn for turn, later in pairwise(steps)) > OTHERS_TURNS, (
        "a request is through between two"
    )


async def test_the_silent_go_in_the_order_of_their_deadlines(pairs):
    roster = Roster(hello, Limits(handshake_s=0.05))
    handshakes = Handshakes(roster, tls=object())
    for number, (ours, _) in enumerate(pairs):
        handshakes.begin(ours, str(number))
        await asyncio.sleep(0.01)
    assert len(roster.arriving) < len(pairs), "the first are gone while the last may still speak"
    assert "0" not in roster.arriving
    await asyncio.wait_for(handshakes.settled(), 30)
    assert not roster.arriving


async def test_an_end_before_a_handshake_began_counts_out(pairs):
    roster = Roster(hello, Limits())
    handshakes = Handshakes(roster, tls=object())
    for ours, theirs in pairs:
        handshakes.begin(ours, "192.0.2.1")
        theirs.send(b"hello")
    await asyncio.sleep(0)
    await asyncio.wait_for(handshakes.give_up(), 30)
    assert not roster.arriving
    assert all(ours.fileno() == -1 for ours, _ in pairs)


async def test_a_sweep_of_many_lets_others_in_between(monkeypatch):
    """Ending a connection takes its time, and those that are due at once are ended in pieces."""
    monkeypatch.setattr("wire.serve.PIECE_S", 0.0)
    async with serving(hello, limits=Limits(idle_s=0.2, head_s=0.2)) as server:
        socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(30)]
        await until(lambda: server.num_connections == len(socks))
        seen = []
        with contextlib.ExitStack() as stack:
            for sock in socks:
                stack.callback(sock.close)
            while server.num_connections:
                seen.append(server.num_connections)
                await asyncio.sleep(0)
        turns = [len(list(each)) for _, each in groupby(seen)][1:]
        assert len(turns) > 5
        assert min(turns) > serve.OTHERS_TURNS, "and a request is through between two pieces"
