"""TLS handshakes in turns: strangers may come by the hundred, and who is here already waits for one of them at most.

A handshake is 0.8 ms of the loop's time, most of it as soon as the client's first bytes are there, the rest when it has
answered. Clients who are taken before these have come cost a descriptor; when they come, a turn of the loop takes
AT_ONCE steps: the next one of who is in the middle, else the first of who came next. A crowd's answers come together,
as its first bytes do. A request takes several turns, and waits for no more than one step in all of them: so after a
step there are OTHERS_TURNS without one.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from wire.listener.connection import Connection
from wire.listener.endings import Cause, Stage
from wire.listener.roster import Roster
from wire.secured.secure import InTurn, Secured

AT_ONCE = 1  # steps in one turn of the loop; who is here already is served between two turns
OTHERS_TURNS = 3  # to a near region and back; with nothing to do they take some 10 us each
LEAST_S = 1.0  # for who has spoken in time, and was heard late by us


class Guest(NamedTuple):
    """Who was taken, from where, until when (loop time) it must speak, and how long (s) it had left when it did."""

    sock: socket.socket
    host: str
    until: float
    left_s: float = LEAST_S


class Patience:
    """What a guest has left, which runs only while it is the guest's turn: to wait for ours is not its fault.

    It has gone on for us already, and may have sent its first request: dropped then, it would be told nothing.
    """

    def __init__(self, limit: asyncio.Timeout, left_s: float, in_turn: InTurn) -> None:
        """`limit`: of the whole handshake; `in_turn`: where steps wait."""
        self._limit, self._left_s, self._in_turn = limit, left_s, in_turn
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self.is_over = False

    def step(self, take: Callable[[], None]) -> None:
        """The guest has spoken; `take` is what comes of it, in its turn."""
        self._left_s -= self._loop.time() - self._since
        self._move(None)
        self._in_turn(partial(self._go_on, take))

    def _go_on(self, take: Callable[[], None]) -> None:
        self._since = self._loop.time()
        self._move(self._since + max(self._left_s, 0.0))
        take()

    def _move(self, when: float | None) -> None:
        if not self.is_over and not self._limit.expired():
            self._limit.reschedule(when)


class Handshakes:
    """`begin` with whom the listener has taken; `settled` once nobody is on the way; `give_up` drops those who are."""

    def __init__(self, roster: Roster, tls: ssl.SSLContext | None) -> None:
        self._roster = roster
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._silent: dict[int, Guest] = {}  # by descriptor, the oldest first
        self._timer: asyncio.TimerHandle | None = None  # of the oldest
        self._ready: deque[Guest] = deque()
        self._steps: deque[Callable[[], None]] = deque()
        self._turn: asyncio.Handle | None = None
        self._num_others = 0  # turns that are others' still
        self._arriving: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def begin(self, sock: socket.socket, host: str) -> None:
        """Someone who may stay for as long as a handshake may take."""
        sock.setblocking(False)
        self._roster.begin_arrival(host)
        self._empty.clear()
        guest = Guest(sock, host, self._loop.time() + self._roster.limits.handshake_s)
        if self._tls is None:
            self._queue(guest)
            return
        self._silent[sock.fileno()] = guest
        self._loop.add_reader(sock.fileno(), self._spoke, sock.fileno())
        if self._timer is None:
            self._timer = self._loop.call_at(guest.until, self._drop_late)

    async def settled(self) -> None:
        """Return once nobody is on the way from here to a Connection."""
        await self._empty.wait()

    async def give_up(self) -> None:
        """Drop those who are on the way."""
        for number in tuple(self._silent):
            self._drop(self._heard(number), Cause.SHUT_DOWN)
        while self._ready:
            self._drop(self._ready.popleft(), Cause.SHUT_DOWN)
        for handle in filter(None, (self._timer, self._turn)):
            handle.cancel()
        for task in self._arriving:
            task.cancel()
        await self.settled()

    def _spoke(self, number: int) -> None:
        guest = self._heard(number)
        self._queue(guest._replace(left_s=max(guest.until - self._loop.time(), LEAST_S)))

    def _heard(self, number: int) -> Guest:
        self._loop.remove_reader(number)
        return self._silent.pop(number)

    def _drop_late(self) -> None:
        """Those who said nothing in time."""
        now, self._timer = self._loop.time(), None
        for number, guest in tuple(self._silent.items()):
            if guest.until > now:
                self._timer = self._loop.call_at(guest.until, self._drop_late)
                return
            self._drop(self._heard(number), Cause.TLS_LATE)

    def _drop(self, guest: Guest, cause: Cause) -> None:
        self._roster.endings.note(cause, Stage.HANDSHAKE)
        guest.sock.close()
        self._left(guest)

    def _queue(self, guest: Guest) -> None:
        self._ready.append(guest)
        self._come_to_it()

    def _in_turn(self, step: Callable[[], None]) -> None:
        self._steps.append(step)
        self._come_to_it()

    def _come_to_it(self) -> None:
        if self._turn is None:
            self._turn = self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        if self._num_others:
            self._num_others -= 1
        else:
            self._take_steps()
        if self._steps or self._ready:
            self._come_to_it()

    def _take_steps(self) -> None:
        self._num_others = OTHERS_TURNS
        for _ in range(AT_ONCE):
            if self._steps:
                self._steps.popleft()()
            elif self._ready:
                self._begin(self._ready.popleft())

    def _begin(self, guest: Guest) -> None:
        task = self._loop.create_task(self._arrive(guest))
        self._arriving.add(task)
        task.add_done_callback(partial(self._arrived, guest))

    async def _arrive(self, guest: Guest) -> None:
        try:
            await (self._plainly(guest) if self._tls is None else self._securely(guest, self._tls))
        except OSError as error:  # gone, late, or what it spoke was no TLS
            self._roster.endings.note(_cause(error), Stage.HANDSHAKE, str(error))
            guest.sock.close()

    async def _plainly(self, guest: Guest) -> None:
        await self._loop.connect_accepted_socket(partial(Connection, self._roster), guest.sock)

    async def _securely(self, guest: Guest, tls: ssl.SSLContext) -> None:
        """Raises OSError (TimeoutError is one)."""
        async with asyncio.timeout(guest.left_s) as limit:
            patience = Patience(limit, guest.left_s, self._in_turn)
            make = partial(Secured, partial(Connection, self._roster), tls, in_turn=patience.step)
            try:
                _, secured = await self._loop.connect_accepted_socket(make, guest.sock)
                await secured.handshake()
            finally:
                patience.is_over = True

    def _arrived(self, guest: Guest, task: asyncio.Task[None]) -> None:
        self._arriving.discard(task)
        if task.cancelled():  # perhaps before it began
            guest.sock.close()
        self._left(guest)

    def _left(self, guest: Guest) -> None:
        self._roster.end_arrival(guest.host)
        if not self._silent and not self._ready and not self._arriving:
            self._empty.set()


def _cause(error: OSError) -> Cause:
    if isinstance(error, ssl.SSLError):
        return Cause.TLS_FAILED
    return Cause.TLS_LATE if isinstance(error, TimeoutError) else Cause.CLIENT_LEFT
