"""The ring's steps: no slot again before its event, every byte once and in order, memory bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.ring import (
    Fill,
    MarkLayer,
    MarkSlot,
    Part,
    Ring,
    Send,
    WaitExtent,
    WaitSlot,
    parts_of,
    steps,
)
from tests.inference.tiny import landed_model, made

rings = st.builds(Ring, st.integers(2, 4), st.sampled_from((16, 48, 64)))


@st.composite
def lists_of_parts(draw):
    """Parts of one or several tensors an extent, extents in the order of layers; some tensors span extents."""
    parts, tensor, start, source, layer = [], 0, 0, draw(st.integers(0, 5)), -1
    for extent in range(draw(st.integers(0, 6))):
        layer += draw(st.integers(0, 2))
        for _ in range(draw(st.integers(1, 4))):
            length = 8 * draw(st.integers(1, 20))
            parts.append(Part(extent, layer, tensor, start, source, length))
            source += length
            start += length
            if draw(st.booleans()):
                tensor, start = tensor + 1, 0
    return parts


class Checked:
    """A device that is as slow as it may be: a slot is being read until somebody waits for its mark."""

    def __init__(self, ring):
        self.ring = ring
        self.landed, self.held, self.reading = set(), {}, {}
        self.sent, self.layers = [], {}

    def take(self, step):
        match step:
            case WaitExtent(extent):
                self.landed.add(extent)
            case WaitSlot(slot):
                self.reading.pop(slot)
            case Fill(slot, at, part):
                assert slot not in self.reading, "a slot is filled while it is read"
                assert part.extent in self.landed, "bytes are read before they are there"
                assert 0 <= slot < self.ring.num_slots
                assert at % 16 == 0
                assert at + part.length <= self.ring.slot_bytes
                assert all(at >= end or at + part.length <= first for first, end in self.held.get(slot, {}))
                self.held.setdefault(slot, {})[at, at + part.length] = part
            case Send(slot, at, part):
                assert self.held[slot][at, at + part.length] == part, "what is sent is not what is there"
                self.sent.append(part)
            case MarkSlot(slot):
                self.held.pop(slot)
                self.reading[slot] = True
            case MarkLayer(layer):
                assert layer not in self.layers
                self.layers[layer] = len(self.sent)


@given(lists_of_parts(), rings)
def test_every_byte_goes_once_in_order_through_slots_that_are_free(parts, ring):
    device = Checked(ring)
    for step in steps(parts, ring):
        device.take(step)

    asked = [(p.tensor, p.start + i, p.source + i) for p in parts for i in range(p.length)]
    assert [(p.tensor, p.start + i, p.source + i) for p in device.sent for i in range(p.length)] == asked
    assert not device.held, "a slot is never marked"
    for layer in {part.layer for part in parts}:
        after = device.sent[device.layers[layer] :]
        assert all(part.layer > layer for part in after), "a layer is marked before its last byte"
    assert list(device.layers) == sorted({part.layer for part in parts})
    assert all(part.start % 8 == 0 and part.length % 8 == 0 for part in device.sent), "an element is cut"


@given(lists_of_parts(), rings)
def test_nothing_is_waited_for_too_early(parts, ring):
    """A slot only when it is needed again, an extent only when nothing before it is left to send."""
    taken = list(steps(parts, ring))
    loads = [step.slot for step in taken if isinstance(step, MarkSlot)]
    waits = [step.slot for step in taken if isinstance(step, WaitSlot)]
    assert waits == loads[: max(0, len(loads) - ring.num_slots)]
    assert [step.extent for step in taken if isinstance(step, WaitExtent)] == list(
        dict.fromkeys(part.extent for part in parts)
    )


@given(lists_of_parts().filter(lambda parts: sum(part.length for part in parts) > 256))
def test_the_check_sees_a_wait_that_is_left_out(parts):
    """The test of the test."""
    device = Checked(ring := Ring(2, 16))
    forgetful = [step for step in steps(parts, ring) if not isinstance(step, WaitSlot)]
    with pytest.raises(AssertionError, match="while it is read"):
        list(map(device.take, forgetful))


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_models_parts_are_its_tensors(num_shards):
    revision, landing, _ = landed_model(made("llama"), num_shards)
    parts = list(parts_of(revision.extents, revision.tensors, landing.layout))
    own = {
        index: sorted((p.start, p.length) for p in parts if p.tensor == index)
        for index in range(len(revision.tensors))
    }
    for index, tensor in enumerate(revision.tensors):
        assert sum(length for _, length in own[index]) == tensor.length
        assert all(
            part.source == landing.layout.place(tensor) + part.start for part in parts if part.tensor == index
        )
    assert [part.layer for part in parts] == sorted(part.layer for part in parts)


@pytest.mark.parametrize(("num_slots", "slot_bytes"), [(1, 64), (2, 8), (2, 40)])
def test_a_ring_that_cannot_turn_is_refused(num_slots, slot_bytes):
    with pytest.raises(ValueError, match="two slots"):
        Ring(num_slots, slot_bytes)
