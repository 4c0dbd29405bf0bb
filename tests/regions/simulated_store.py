"""A store whose every step is chosen: who goes on next, which answer is lost, who dies, when a PUT takes effect.

Callers are coroutines that are driven by hand, so a schedule is a list of numbers, and time passes only when all that
must have happened by then has.
"""

from dataclasses import dataclass, field

from storage.client.sdk import Entry, Got, NotFound, PreconditionFailed, Unreachable

LATEST_S = 1.0  # a PUT takes effect within this after the store looked at its condition


class Turn:
    """Awaited by whoever must be chosen to go on; not before `wake_s`, and not later than `by_s`."""

    def __init__(self, wake_s=0.0, by_s=float("inf"), put=None):
        self.wake_s, self.by_s, self.put = wake_s, by_s, put

    def __await__(self):
        return (yield self)


@dataclass
class Caller:
    """A process: `work` is what it does, `at` where it waits."""

    work: object
    at: Turn | None = None


@dataclass
class Stored:
    data: bytes
    begun: int


@dataclass
class World:
    """`looks_first`: PUTs look at their condition and take effect later; the last to begin, or to land, stays."""

    choose: object  # n -> a number below n
    looks_first: bool = False
    loses_answers: bool = True
    kills: bool = True
    patience: int = 1  # turns that one goes on alone, on average
    now_s: float = 0.0
    num_begun: int = 0
    objects: dict = field(default_factory=dict)
    shown: list = field(default_factory=lambda: [()])  # what a listing may show: the keys of any moment
    callers: list = field(default_factory=list)
    last_begun_stays: bool = False

    def start(self, work):
        self.callers.append(Caller(work))

    def run(self):
        """Until every caller has ended or is dead, and every PUT has taken effect.

        One goes on alone for a while, as if the others slept: what is rare with fair turns is not rare so.
        """
        caller = None
        while self.callers:
            ready = [each for each in self.callers if each.at is None or each.at.wake_s <= self._limit_s()]
            if caller not in ready or self.choose(self.patience) == 0:
                caller = ready[self.choose(len(ready))]
            if self.kills and caller.at is not None and self.choose(150) == 0:
                self._kill(caller)
            else:
                self._go_on(caller)

    def one(self, work):
        """What `work` returns, with nobody else about."""
        ended = []

        async def doing():
            ended.append(await work)

        self.start(doing())
        self.run()
        return ended[0]

    def land(self, key, data, begun):
        if self.last_begun_stays and key in self.objects and self.objects[key].begun > begun:
            return
        self.objects[key] = Stored(data, begun)
        self.shown.append(tuple(sorted(self.objects)))

    def remove(self, key):
        self.objects.pop(key, None)
        self.shown.append(tuple(sorted(self.objects)))

    def _limit_s(self):
        return min(each.at.by_s if each.at else self.now_s for each in self.callers)

    def _go_on(self, caller):
        if caller.at is not None:
            self.now_s = max(self.now_s, caller.at.wake_s)
        try:
            caller.at = caller.work.send(None)
        except StopIteration:
            self.callers.remove(caller)

    def _kill(self, caller):
        """The process is gone; what it had sent may take effect all the same."""
        self.callers.remove(caller)
        caller.work.close()
        if caller.at.put is not None and self.choose(2):
            self.start(_landing(self, caller.at))


async def _landing(world, turn):
    await turn
    world.land(*turn.put)


class SimulatedStore:
    """One process's client of a world."""

    def __init__(self, world):
        self._world = world

    async def pause(self, pause_s):
        await Turn(wake_s=self._world.now_s + pause_s)

    async def get(self, bucket, key, *, max_bytes):
        await Turn()
        found = self._world.objects.get(key)
        if found is None:
            raise NotFound("NoSuchKey", key, 404)
        return Got(found.data, str(found.begun), len(found.data), {})

    async def put(self, bucket, key, data, *, if_none_match=False, if_match=None):
        world = self._world
        await Turn()
        found = world.objects.get(key)
        if (if_none_match and found) or (if_match and (found is None or str(found.begun) != if_match)):
            raise PreconditionFailed("PreconditionFailed", key, 412)
        world.num_begun += 1
        put = (key, data, world.num_begun)
        if world.looks_first:
            await Turn(by_s=world.now_s + LATEST_S, put=put)
        world.land(*put)
        await self._answer()
        return str(put[2])

    async def delete(self, bucket, key):
        await Turn()
        self._world.remove(key)
        await self._answer()

    async def list(self, bucket, prefix=""):
        await Turn()
        shown = self._world.shown
        for key in shown[-1 - self._world.choose(min(8, len(shown)))]:
            if key.startswith(prefix):
                yield Entry(key, 1, "", 0.0)

    async def _answer(self):
        await Turn()
        if self._world.loses_answers and self._world.choose(30) == 0:
            raise Unreachable("Unreachable", "the answer was lost")
