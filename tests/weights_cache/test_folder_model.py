"""Whatever is asked, restarted or damaged in whatever order: the cap holds on the disk, and no wrong byte is served."""

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.evidence import count
from weights_cache.memory.view import LandingError
from weights_cache.model.plan import Held, evictions

from .kept import (
    FILES,
    REVISIONS,
    WEIGHT_BYTES,
    WHOLE,
    MemoryReader,
    contents,
    entry_bytes,
    tier_on,
    used_bytes,
)

ANY = st.integers(0, 2)


class Folder(RuleBasedStateMachine):
    """The tier over a folder against a small model of it: which bytes are there, who is pinned, who was used last."""

    @initialize()
    def make(self):
        self.home = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.path = Path(self.home.name) / "cache"
        self.sizes = [entry_bytes(Path(self.home.name), number) for number in range(3)]
        self.cap = self.sizes[1] + self.sizes[2]
        self.reader = MemoryReader()
        self.tier = tier_on(self.path, self.reader, self.cap)
        self.here, self.wrong_bytes = (
            {},
            Counter(),
        )  # number -> when it was used; bytes that the check must find
        self.pins = {number: [] for number in range(3)}
        self.live = set()  # landed in this process: not looked at again
        self.clock = 0

    def uses(self, number):
        self.clock += 1
        self.here[number] = self.clock

    def after_room(self, number):
        """Who is left once there is room for `number`; None if there can be none."""
        others = [each for each in self.here if each != number]
        held = [Held(str(n), self.sizes[n], self.here[n], bool(self.pins[n])) for n in others]
        gone = evictions(held, self.sizes[number], self.cap)
        return None if gone is None else [n for n in others if str(n) not in gone]

    @rule(number=ANY, pin=st.booleans())
    def land(self, number, pin):
        left = list(self.here) if number in self.live else self.after_room(number)
        if left is None:
            with pytest.raises(LandingError, match="in use"):
                self.tier.land(REVISIONS[number], pin=pin)
            return
        read_before = sum(self.reader.num_bytes.values())
        landing = self.tier.land(REVISIONS[number], pin=pin)
        assert landing.wait(60)
        read = sum(self.reader.num_bytes.values()) - read_before
        if number in self.live:
            assert read == 0
        else:
            assert read == (self.wrong_bytes[number] if number in self.here else WEIGHT_BYTES[number])
            for gone in set(self.here) - {*left, number}:
                self.forget(gone)
        self.live.add(number)
        self.wrong_bytes[number] = 0
        self.uses(number)
        if pin:
            self.pins[number].append(landing)

    def forget(self, number):
        self.here.pop(number, None)
        self.live.discard(number)
        self.wrong_bytes[number] = 0

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def release(self, data):
        number = data.draw(st.sampled_from([n for n, pins in self.pins.items() if pins]))
        self.pins[number].pop().release()
        self.uses(number)

    @rule(number=ANY)
    def small(self, number):
        found = self.tier.small_files(REVISIONS[number])
        assert found == {path: data for path, data in FILES[number].items() if path in found}
        assert found.keys() == {entry.path for entry in REVISIONS[number].small_files}

    @rule(number=ANY)
    def evict(self, number):
        may_go = number in self.here and not self.pins[number]
        assert self.tier.evict(REVISIONS[number].id) == (self.sizes[number] if may_go else 0)
        if may_go:
            self.forget(number)

    @rule()
    def restart(self):
        self.tier.close()
        self.tier = tier_on(self.path, self.reader, self.cap)
        self.pins = {number: [] for number in range(3)}
        self.live = set()

    @precondition(lambda self: set(self.here) - self.live)
    @rule(data=st.data())
    def damage(self, data):
        """A byte of an extent turns while nobody uses it."""
        number = data.draw(st.sampled_from(sorted(set(self.here) - self.live)))
        if self.wrong_bytes[number]:
            return
        extent = data.draw(st.integers(0, len(REVISIONS[number].extents) - 1))
        place = self.tier._folder._files[REVISIONS[number].id].extents[extent][0]
        with (self.path / f"{REVISIONS[number].id}.weights").open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))
        self.wrong_bytes[number] = REVISIONS[number].extents[extent].length

    @rule(number=ANY)
    def look(self, number):
        for landing in self.pins[number][:1]:
            assert contents(landing, number) == WHOLE[number]

    @invariant()
    def holds(self):
        if not hasattr(self, "tier"):
            return
        assert used_bytes(self.path) <= self.cap
        entries = {entry.model: entry for entry in self.tier.entries()}
        assert entries.keys() == {f"acme/k{number}" for number in self.here}
        assert all(entry.landed for entry in entries.values())

    def teardown(self):
        if hasattr(self, "tier"):
            self.tier.close()
            self.home.cleanup()


Folder.TestCase.settings = settings(max_examples=count(20, 1_000), stateful_step_count=25, deadline=None)
TestFolder = Folder.TestCase
