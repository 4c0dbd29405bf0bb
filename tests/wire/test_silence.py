"""A way is lost by the word of kernels: what is looked at, what proves it well, and who is cut."""

import asyncio
import logging
import math
import socket
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from wire.dial import DialError
from wire.tcpinfo import Look, look
from wire.upstreams.connect import Attempt, Target
from wire.upstreams.resolve import Name
from wire.ways import listen, way
from wire.ways import watch as watching
from wire.ways.listen import STREAM_S, Listener
from wire.ways.silence import BEAT_S, LATE_S, LEAST_S, MANY, SOONER, STALL_S, Silence, limit_s
from wire.ways.watch import NUM_SPARE, SPARE_S, look_at

QUIET = Look(unacked=False, repeated=False, sent_s=9.0, heard_s=9.0)


def mute(since_s, *, repeated=False, heard_s=60.0):
    """Something was sent so long ago, and not acknowledged."""
    return Look(unacked=True, repeated=repeated, sent_s=since_s, heard_s=heard_s)


def lost_after(scene, *, rtt_ms=1.0, for_s=3.0, beat_s=BEAT_S):
    """Seconds until the way counts as lost, of looks as `scene(seconds)` has them; None: never."""
    silence, num = Silence(), round(for_s / beat_s)
    found = (
        n * beat_s for n in range(num) if silence.lost(100 + n * beat_s, scene(n * beat_s), limit_s(rtt_ms))
    )
    return next(found, None)


def two(t):
    return {"a": mute(t), "b": mute(t)}


def many(t):
    return {n: mute(t) for n in range(MANY)}


@pytest.mark.parametrize(
    ("scene", "soonest", "latest"),
    [
        (many, SOONER * LEAST_S, SOONER * LEAST_S + 2 * BEAT_S),
        (lambda t: {n: mute(t) for n in range(MANY - 1)}, LEAST_S, LEAST_S + 2 * BEAT_S),
        # one by one, as requests come: the eighth has waited for less
        (
            lambda t: {n: mute(t - n * 0.01) for n in range(MANY) if t >= n * 0.01},
            SOONER * LEAST_S + 0.07,
            SOONER * LEAST_S + 0.07 + 2 * BEAT_S,
        ),
        (two, LEAST_S, LEAST_S + 2 * BEAT_S),
        (lambda t: {"a": mute(t, repeated=t > 0.25)}, 2 * LEAST_S, 2 * LEAST_S + 2 * BEAT_S),
        # sent again and again: the last time says nothing of the first
        (lambda t: {"a": mute(t % 0.2, repeated=True)}, 2 * LEAST_S, 2 * LEAST_S + 2 * BEAT_S),
        (lambda t: {"idle": QUIET, **two(t)}, LEAST_S, LEAST_S + 2 * BEAT_S),
    ],
    ids=[
        "many",
        "nearly many",
        "many, one by one",
        "two",
        "one, repeated",
        "one, repeated often",
        "two beside an idle one",
    ],
)
def test_what_nobody_acknowledges_is_lost(scene, soonest, latest):
    assert soonest <= lost_after(scene) <= latest


@pytest.mark.parametrize(
    "scene",
    [
        lambda _: {"a": QUIET, "b": QUIET},  # all was acknowledged: the process may take its time
        lambda t: {"a": mute(t)},  # one segment that the kernel has not repeated yet
        lambda t: {**two(t), "c": Look(unacked=False, repeated=False, sent_s=9.0, heard_s=t % 0.25)},
        lambda t: {"a": mute(t % 0.25, heard_s=t % 0.25), "b": mute(t % 0.25, heard_s=t % 0.25)},
        lambda t: {f"{round(t / 0.2)}": mute(t % 0.2), "b": mute(t % 0.2, heard_s=t % 0.2)},
        lambda t: {n: mute(t % 0.15, heard_s=t % 0.15) for n in range(3 * MANY)},
        lambda t: {**many(t), "c": Look(unacked=False, repeated=False, sent_s=9.0, heard_s=t % 0.15)},
    ],
    ids=[
        "acknowledged",
        "one segment",
        "another one hears",
        "acknowledged late",
        "others each time",
        "many, acknowledged late",
        "many, and another one hears",
    ],
)
def test_what_is_slow_or_hurt_is_not_lost(scene):
    assert lost_after(scene) is None


def test_a_longer_way_is_waited_for_longer():
    """At 80 ms a segment that was lost once is acknowledged after 3 round trips and what a kernel waits."""
    assert limit_s(None) == limit_s(1.0) == LEAST_S
    assert limit_s(80.0) > 0.2 + 3 * 0.08
    assert lost_after(two, rtt_ms=80.0) >= limit_s(80.0)


def test_a_process_that_stood_still_saw_nothing():
    """Stopped for 10 s, or always late: what the kernel says of that time may have been the machine's own."""
    assert lost_after(many, beat_s=1.1 * LATE_S) >= LEAST_S, (
        "late looks: then many count for no more than two"
    )
    silence = Silence()
    assert not silence.lost(100.0, two(0.0), LEAST_S)
    assert not silence.lost(110.0, {"a": mute(10.0, repeated=True), "b": mute(10.0)}, LEAST_S)
    assert lost_after(lambda t: {"a": mute(t, repeated=True), "b": mute(t)}, beat_s=2 * STALL_S) is None


def looks_of_a_machine_that_stands_still(stall_s, run_s, *, for_s=20.0, num=2 * MANY, needs_s=0.01):
    """Each look of an edge on a machine that runs for `run_s` and stands still for `stall_s`, over and over.

    The region is well: what is sent there is acknowledged once the machine that both ends share has run for `needs_s`,
    and then the next request is sent on the connection. A look is due a beat after the last, and comes when it can.
    """
    period = stall_s + run_s

    def when_it_runs(at):
        return at if at % period < run_s else (at // period + 1) * period

    def after_running(at, for_s):
        while (left_s := run_s - at % period) < for_s:
            at, for_s = (at // period + 1) * period + 1e-9, for_s - left_s
        return at + for_s

    at, sent = 0.0, {n: n * run_s / num for n in range(num)}
    heard = dict.fromkeys(sent, -1.0)
    while at < for_s:
        for each, since in sent.items():
            if (acked := after_running(since, needs_s)) <= at:
                heard[each], sent[each] = acked, acked
        yield at, {n: Look(True, False, at - sent[n], at - heard[n]) for n in sent}
        at = when_it_runs(at + BEAT_S) + 1e-6


@pytest.mark.parametrize(
    ("stall_s", "run_s"),
    [(0.19, 0.005), (0.15, 0.003), (0.12, 0.004), (0.09, 0.004), (0.19, 0.002), (0.5, 0.004), (3.0, 0.002)],
)
def test_an_edge_whose_machine_stands_still_again_and_again_condemns_nobody(stall_s, run_s):
    """However short each stall: what was not acknowledged in it could not be."""
    silence, looks = Silence(), list(looks_of_a_machine_that_stands_still(stall_s, run_s))
    assert not [at for at, seen in looks if silence.lost(100 + at, seen, LEAST_S)]
    assert len(looks) * stall_s > 10


def test_a_loss_is_found_by_looks_that_come_late_too():
    """Each counts for a beat, so that it takes longer."""
    for late_s in (1.1 * LATE_S, 0.9 * STALL_S):
        took_s = lost_after(two, beat_s=late_s, for_s=9.0)
        assert LEAST_S < took_s <= (LEAST_S / BEAT_S + 2) * late_s


class Line:
    """A connection in use; `seen` is what the kernel would say of it."""

    def __init__(self, seen, *, waits=True):
        self.sock, self.waits, self.cut = SimpleNamespace(seen=seen), waits, False

    def abort(self):
        self.cut = True


class Lines:
    def __init__(self, *used, idle=()):
        self._used, self._idle = used, idle

    def in_use(self):
        return tuple(each for each in self._used if not each.cut)

    def idle(self):
        return self._idle

    busy = in_use


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(listen, "look", lambda sock: sock.seen)


def seen_by(listener, for_s=0.5):
    return [listener.lost(100 + n * BEAT_S, 1.0) for n in range(round(for_s / BEAT_S))]


@pytest.mark.usefixtures("scripted")
def test_idle_connections_and_streams_are_asked_before_a_way_is_given_up():
    unheard = Line(mute(1.0)), Line(mute(1.0))
    alive = Line(Look(unacked=False, repeated=False, sent_s=9.0, heard_s=0.01), waits=False)

    assert any(seen_by(Listener(Lines(*unheard), Lines())))
    assert not any(seen_by(Listener(Lines(*unheard, alive), Lines())))
    assert not any(seen_by(Listener(Lines(*unheard, idle=(alive,)), Lines())))
    assert not any(seen_by(Listener(Lines(alive), Lines())))


@pytest.mark.usefixtures("scripted")
def test_the_probe_is_a_witness_that_is_not_cut():
    sent, probe = Line(mute(1.0)), Line(mute(1.0))
    listener = Listener(Lines(sent), Lines(probe))

    assert any(seen_by(listener))
    assert (listener.cut(), sent.cut, probe.cut) == (1, True, False)


@pytest.mark.usefixtures("scripted")
def test_what_was_acknowledged_and_streams_stay_for_a_while():
    computing, sent = Line(QUIET), Line(mute(0.1))
    stream = Line(Look(unacked=False, repeated=False, sent_s=9.0, heard_s=STREAM_S - 0.1), waits=False)
    dead = Line(Look(unacked=False, repeated=False, sent_s=9.0, heard_s=STREAM_S), waits=False)
    listener = Listener(Lines(computing, sent, stream, dead), Lines())

    assert (listener.cut(), sent.cut) == (1, True)
    assert (listener.cut_silent(), dead.cut, stream.cut, computing.cut) == (1, True, False, False)


class Way:
    """A reach, as `look_at` sees one."""

    def __init__(self, *, lost=False, down=False, doubted=0, rtt_ms=1.0, asked=False):
        self.lost, self.down, self.acts = lost, down, []
        self.num_doubted, self.rtt_ms, self.is_asked = doubted, rtt_ms, asked

    waits = False

    def is_lost(self, _):
        return self.lost

    def lose(self, _):
        self.down = True
        self.acts.append("lose")

    def let_go(self):
        self.acts.append("let go")

    def prepare(self, num):
        self.acts.append(num)


@pytest.mark.parametrize(
    ("ways", "acts"),
    [
        ((Way(), Way()), [[], []]),
        ((Way(lost=True), Way()), [["lose", "let go"], []]),
        ((Way(down=True), Way()), [["let go"], []]),
        ((Way(lost=True), Way(lost=True)), [[], []]),  # it is this edge that is cut off
        ((Way(lost=True), Way(down=True)), [[], []]),
        ((Way(lost=True),), [[]]),
    ],
    ids=["well", "one lost", "one down", "all lost", "the last one", "the only one"],
)
def test_a_way_is_given_up_while_there_is_another(ways, acts):
    look_at(ways, 1.0)
    assert [each.acts for each in ways] == acts


def test_a_gateway_gives_up_the_last_one_too():
    """An edge that asked it to pass on can ask another region."""
    ways = Way(lost=True), Way(lost=True)
    look_at(ways, 1.0, keeps_last=False)
    assert [each.acts for each in ways] == [["lose", "let go"], ["lose", "let go"]]


@pytest.mark.parametrize(
    ("ways", "acts"),
    [
        ((Way(doubted=9), Way(rtt_ms=80.0), Way(rtt_ms=9.0)), [[], [], [9]]),
        ((Way(doubted=9), Way(rtt_ms=80.0), Way(rtt_ms=9.0, down=True)), [[], [9], ["let go"]]),
        ((Way(doubted=9), Way(doubted=3), Way(rtt_ms=9.0)), [[], [], [9, 3]]),
        ((Way(doubted=9), Way(rtt_ms=None)), [[], []]),
        ((Way(doubted=9), Way(doubted=3)), [[], []]),
    ],
    ids=["nearest", "not one that is down", "nor doubted itself", "nor one that never answered", "none"],
)
def test_while_a_way_is_doubted_connections_are_made_elsewhere(ways, acts):
    look_at(ways, 1.0)
    assert [each.acts for each in ways] == acts


async def test_while_several_requests_wait_the_nearest_two_have_connections_to_spare(monkeypatch):
    beats = Beats()
    monkeypatch.setattr(watching, "asyncio", beats)
    monkeypatch.setattr(watching, "SPARE_S", 0.0)
    far, near = Way(rtt_ms=80.0), Way(rtt_ms=1.0)
    ways = far, near, Way(rtt_ms=9.0, down=True), Way(rtt_ms=None)
    watch = asyncio.create_task(watching.watch(ways))
    await beats.over()
    assert near.acts == [], "one at a time would not wait for long"
    far.is_asked = True
    await beats.over()
    watch.cancel()

    assert SPARE_S > 0
    assert [NUM_SPARE in each.acts for each in ways] == [True, True, False, False]
    alone = Way(asked=True), Way(down=True)
    watch = asyncio.create_task(watching.watch(alone, keeps_last=False))
    await beats.over()
    watch.cancel()
    assert alone[0].acts == [], "a gateway passes little on"


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("num", [0, 1, 2])
def test_a_way_is_asked_by_requests_and_not_by_probes(num):
    listener = Listener(
        Lines(*[Line(QUIET)] * num, Line(QUIET, waits=False)), Lines(Line(QUIET), Line(QUIET))
    )
    listener.lost(100.0, 1.0)
    assert listener.is_asked is (num == 2)


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    ("num_lines", "num_beats", "num"),
    [
        (2, 3, 0),
        (1, 9, 0),
        (2, 6, 4),
        (2, 9, 3),
        (2, 12, 2),
        (20, 2, 0),
        (20, 4, 40),
        (20, 6, 27),
        (20, 8, 20),
    ],
    ids=[
        "too soon",
        "one alone",
        "two",
        "nearly sure",
        "lost",
        "many too soon",
        "many",
        "many sure",
        "many lost",
    ],
)
def test_a_way_is_doubted_before_it_is_lost(num_lines, num_beats, num):
    """As many more are expected as come, at this pace, until it is lost."""
    lines = [Line(mute(0.0)) for _ in range(num_lines)]
    listener = Listener(Lines(*lines), Lines())
    for beat in range(num_beats + 1):
        for line in lines:
            line.sock.seen = mute(beat * BEAT_S)
        lost = listener.lost(100 + beat * BEAT_S + 1e-6 * beat, 1.0)
    assert listener.num_doubted == num
    assert lost is (num == num_lines)
    lines[0].sock.seen = Look(unacked=False, repeated=False, sent_s=0.01, heard_s=0.01)
    listener.lost(100 + (num_beats + 1) * BEAT_S, 1.0)
    assert not listener.num_doubted


@contextmanager
def a_full_queue():
    """A listener behind which nobody answers a SYN, as behind a cut."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        yield full.getsockname()


@pytest.mark.parametrize("when", ["before", "twice", "as its time is up", "after"])
async def test_an_attempt_may_be_given_up_at_any_moment(when):
    """Whoever looks after the ways gives up what it finds, and must not end by that. At one moment with its own time
    either may be first, and says so.
    """
    loop = asyncio.get_running_loop()
    with a_full_queue() as (host, port):
        attempt = Attempt(Target(Name(host, port), port, None, None, None, None))
        if when == "before":
            attempt.abort()
        asking = asyncio.ensure_future(attempt.connect(0.2 if when == "as its time is up" else 60.0))
        while when != "before" and attempt._limit is None:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        if when == "as its time is up":
            loop.call_at(attempt._limit.when(), attempt.abort)
        elif when != "before":
            attempt.abort()
        while when == "twice" and not asking.done():
            await asyncio.sleep(0)
            attempt.abort()
        said = "the way to it is lost" + ("|no connection within" if when == "as its time is up" else "")
        with pytest.raises(DialError, match=said):
            async with asyncio.timeout(50):
                await asking
        attempt.abort()


async def test_the_kernel_of_a_host_that_takes_no_connection_is_silent(caplog):
    """Real sockets: behind a full queue nobody answers a SYN, as behind a cut; the request hears it long before 2 s."""
    with a_full_queue() as (host, port):
        reach = way.Way("iad", host, port)
        asking = [asyncio.ensure_future(reach.pool.request("POST", "/", connect_s=60.0)) for _ in range(3)]
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(2):  # until the tasks that make connections have begun
            await asyncio.sleep(0)
        sent = [look(each.sock) for each in reach.pool.in_use()]
        with caplog.at_level(logging.WARNING):
            async with asyncio.timeout(50):
                while not reach.down:
                    look_at((reach, Way()), loop.time())
                    await asyncio.sleep(BEAT_S)
        took_s = loop.time() - began
        found = await asyncio.gather(*asking, return_exceptions=True)
        await reach.close()

    given_up = [each for each in found if "the way to it is lost" in str(each)]
    # A kernel's clocks of data show its whole life before there was any.
    assert [(each.sent_s, each.heard_s) for each in sent if each and each.unacked][-1:] == [(0.0, math.inf)]
    assert took_s >= LEAST_S
    assert len(given_up) == 3
    assert all(isinstance(each, DialError) and each.phase == "connect" for each in found)
    assert "region iad is out of reach" in caplog.text


async def test_the_kernel_tells_of_a_connection_that_stands():
    async def quiet(reader, _):
        await reader.read()

    server = await asyncio.start_server(quiet, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as sock:
        sock.sendall(b"GET")
        async with asyncio.timeout(30):
            while look(sock).unacked:  # noqa: ASYNC110 - the kernel has no event for it
                await asyncio.sleep(0.01)
        heard = look(sock)
    server.close()

    assert (heard.unacked, heard.repeated) == (False, False)
    assert 0 <= heard.heard_s < 30
    assert look(sock) is None  # closed
    assert look(None) is None


class Beats:
    """In place of asyncio in `wire.ways.watch`: a beat ends when the test says so."""

    Event, get_running_loop = asyncio.Event, staticmethod(asyncio.get_running_loop)

    def __init__(self):
        self._over = asyncio.Event()

    async def sleep(self, _):
        self._over.clear()
        await self._over.wait()

    async def over(self):
        """Let everything run that can, then let a beat pass, if one is waited for."""
        await settle()
        self._over.set()
        await settle()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_ways_are_looked_at_only_while_somebody_waits(monkeypatch):
    beats, looks = Beats(), []
    monkeypatch.setattr(watching, "asyncio", beats)
    with a_full_queue() as (host, port):
        ways = way.Way("iad", host, port), way.Way("fra", host, port)
        monkeypatch.setattr(ways[0], "is_lost", looks.append)
        watch = asyncio.create_task(watching.watch(ways))
        num_looks = []
        for asks in (False, False, True, True, False, False):
            asking = [asyncio.create_task(ways[1].pool.request("POST", "/", connect_s=60.0))] if asks else []
            await beats.over()
            num_looks.append(len(looks))
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            for each in ways[1].pool.in_use():
                each.abort()
            await settle()
        watch.cancel()
        for each in ways:
            await each.close()

    assert num_looks[:2] == [1, 1], "nobody asks, nobody looks"
    assert num_looks[2] == 3, "at once, and a beat later"
    assert num_looks[3] > 3
    assert num_looks[4] == num_looks[5], "and when it was seen that nobody waits, no more"


async def test_a_way_that_is_down_is_looked_at_without_anybody(monkeypatch):
    beats = Beats()
    monkeypatch.setattr(watching, "asyncio", beats)
    ways = Way(down=True), Way()
    watch = asyncio.create_task(watching.watch(ways))
    for _ in range(3):
        await beats.over()
    watch.cancel()

    assert ways[0].acts == ["let go"] * 4
