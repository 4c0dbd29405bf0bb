"""Whatever is asked in whatever order: the cap holds, the pinned stay whole, each load reads each byte once."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.client.sdk import Endpoint
from tests.evidence import count
from tests.weights_cache.onebyone import OneByOne
from weights_cache.cache import HostTier
from weights_cache.memory.view import LandingError, open_landing
from weights_cache.model.plan import layout

from .samples import described, landed_bytes, tiny_files

FILES = [tiny_files(num_layers=1 + number, width=8, seed=50 + 10 * number) for number in range(4)]
REVISIONS = [described(files, f"acme/m{number}") for number, files in enumerate(FILES)]
WHOLE = [landed_bytes(revision, files) for revision, files in zip(REVISIONS, FILES, strict=True)]
SIZES = [layout(revision.files, revision.tensors).total_bytes for revision in REVISIONS]
BLOBS = {
    f"/nearfield-blobs/{entry.blake3}": files[entry.path]
    for revision, files in zip(REVISIONS, FILES, strict=True)
    for entry in revision.files
}
CAP = SIZES[3] + SIZES[2]
ANY = st.integers(0, 3)


class MemoryReader(OneByOne):
    """Reads from memory and counts."""

    def __init__(self, num_bytes):
        self.num_bytes = num_bytes

    def read_into(self, path, offset, view):
        view[:] = BLOBS[path][offset : offset + len(view)]
        self.num_bytes[path] += len(view)


class Tier(RuleBasedStateMachine):
    """The tier against what must be true of it."""

    @initialize()
    def make(self):
        self.read_bytes = Counter()
        self.tier = HostTier(
            Endpoint("http://127.0.0.1:1", "AK", "s"),
            CAP,
            num_readers=2,
            make_reader=lambda: MemoryReader(self.read_bytes),
        )
        self.pins = {number: [] for number in range(4)}
        self.loads = Counter()

    @rule(number=ANY, pin=st.booleans())
    def land(self, number, pin):
        pinned = sum(SIZES[other] for other in range(4) if self.pins[other] and other != number)
        if pinned + SIZES[number] > CAP:
            with pytest.raises(LandingError, match="in use"):
                self.tier.land(REVISIONS[number], pin=pin)
            return
        landing = self.tier.land(REVISIONS[number], pin=pin)
        assert landing.wait(60)
        self.loads[number] += landing.source == "region"
        if pin:
            self.pins[number].append(landing)

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def release(self, data):
        number = data.draw(st.sampled_from([n for n, pins in self.pins.items() if pins]))
        self.pins[number].pop().release()

    @rule(number=ANY)
    def evict(self, number):
        was_here = self.tier.holds(REVISIONS[number].id)
        freed_bytes = self.tier.evict(REVISIONS[number].id)

        assert freed_bytes == (SIZES[number] if was_here and not self.pins[number] else 0)

    @rule(number=ANY)
    def look(self, number):
        for landing in self.pins[number][:1]:
            view = open_landing(REVISIONS[number], landing.fd, landing.ready_fd, landing.event_fd)
            assert view.wait_all(1)
            assert bytes(view.buffer) == WHOLE[number]
            view.close()

    @invariant()
    def holds(self):
        if not hasattr(self, "tier"):
            return
        entries = {entry.model: entry for entry in self.tier.entries()}
        assert sum(entry.num_bytes for entry in entries.values()) <= CAP
        for number, pins in self.pins.items():
            assert not pins or entries[f"acme/m{number}"].num_pins == len(pins)
        for number, revision in enumerate(REVISIONS):
            wanted = sum(extent.length for extent in revision.extents) * self.loads[number]
            paths = {f"/nearfield-blobs/{revision.files[file].blake3}" for file in revision.weight_files}
            assert sum(self.read_bytes[path] for path in paths) == wanted

    def teardown(self):
        if hasattr(self, "tier"):
            self.tier.close()


Tier.TestCase.settings = settings(max_examples=count(20, 40), stateful_step_count=25, deadline=None)
TestTier = Tier.TestCase
