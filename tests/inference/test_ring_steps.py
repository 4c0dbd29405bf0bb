"""The ring's steps, however its two sides and its fillers take turns: no slot again before its event, every byte once
and in order, memory bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.gpu.ring import (
    Fill,
    MarkLayer,
    MarkSlot,
    Part,
    Ring,
    Send,
    WaitExtent,
    WaitFill,
    WaitSlot,
    fills,
    parts_of,
    sends,
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
    """Both sides and a device, each as slow as it may be: a slot is being filled until somebody waits for that, and
    being read until somebody waits for its mark."""

    def __init__(self, parts, ring):
        self.ring = ring
        self.sides = {"fill": list(fills(parts, ring)), "send": list(sends(parts, ring))}
        self.landed, self.filling, self.held, self.reading, self.marked = set(), {}, {}, set(), set()
        self.sent, self.layers = [], {}

    def run(self, choose):
        """Have the sides take turns as `choose` says, until nothing is left or nobody may go on."""
        while able := [side for side, left in self.sides.items() if left and self.may(left[0])]:
            self.take(self.sides[choose(able)].pop(0))
        assert not any(self.sides.values()), "both sides wait for one another"

    def may(self, step):
        match step:
            case WaitSlot(slot):
                return slot in self.marked
            case WaitFill(slot):
                return slot in self.filling
        return True

    def take(self, step):
        match step:
            case WaitExtent(extent):
                self.landed.add(extent)
            case WaitSlot(slot):
                self.marked.remove(slot)
                self.reading.remove(slot)
            case Fill(slot, load):
                assert slot not in self.reading | self.filling.keys() | self.held.keys(), "a slot is in use"
                assert 0 <= slot < self.ring.num_slots
                self.check_load(load)
                self.filling[slot] = load
            case WaitFill(slot):
                self.held[slot] = dict(self.filling.pop(slot))
            case Send(slot, at, part):
                assert self.held[slot][at] == part, "what is sent is not what is there"
                self.sent.append(part)
            case MarkSlot(slot):
                self.held.pop(slot)
                self.reading.add(slot)
                self.marked.add(slot)
            case MarkLayer(layer):
                assert layer not in self.layers
                self.layers[layer] = len(self.sent)

    def check_load(self, load):
        end = 0
        for at, part in load:
            assert part.extent in self.landed, "bytes are read before they are there"
            assert at % 16 == 0
            assert at >= end
            end = at + part.length
        assert end <= self.ring.slot_bytes


turns = st.sampled_from((min, max)) | st.randoms(use_true_random=False).map(lambda random: random.choice)
"""Who goes on where both may: the one, the other, or by chance."""


@given(lists_of_parts(), rings, turns)
def test_every_byte_goes_once_in_order_through_slots_that_are_free(parts, ring, choose):
    device = Checked(parts, ring)
    device.run(choose)

    asked = [(p.tensor, p.start + i, p.source + i) for p in parts for i in range(p.length)]
    assert [(p.tensor, p.start + i, p.source + i) for p in device.sent for i in range(p.length)] == asked
    assert not device.held, "a slot is never marked"
    assert not device.filling
    for layer in {part.layer for part in parts}:
        after = device.sent[device.layers[layer] :]
        assert all(part.layer > layer for part in after), "a layer is marked before its last byte"
    assert list(device.layers) == sorted({part.layer for part in parts})
    assert all(part.start % 8 == 0 and part.length % 8 == 0 for part in device.sent), "an element is cut"


@given(lists_of_parts(), rings)
def test_nothing_is_waited_for_too_early(parts, ring):
    """A slot only when it is needed again, an extent only when nothing before it is left to fill."""
    filling = list(fills(parts, ring))
    loads = [step.slot for step in filling if isinstance(step, Fill)]
    waits = [step.slot for step in filling if isinstance(step, WaitSlot)]
    assert waits == loads[: max(0, len(loads) - ring.num_slots)]
    assert [step.extent for step in filling if isinstance(step, WaitExtent)] == list(
        dict.fromkeys(part.extent for part in parts)
    )


@given(lists_of_parts(), rings)
def test_slots_are_filled_as_far_ahead_as_there_are_any(parts, ring):
    """While nothing is sent, every slot of the ring is filled."""
    device = Checked(parts, ring)
    loads = sum(isinstance(step, Fill) for step in device.sides["fill"])
    left = device.sides.pop("send")
    device.sides["send"] = []
    with_all = loads <= ring.num_slots
    if with_all:
        device.run(min)
    else:
        with pytest.raises(AssertionError, match="wait for one another"):
            device.run(min)
    assert len(device.filling) == min(loads, ring.num_slots)
    device.sides["send"] = left
    device.run(max)


@given(lists_of_parts().filter(lambda parts: sum(part.length for part in parts) > 256))
def test_the_check_sees_a_wait_that_is_left_out(parts):
    """The test of the test."""
    device = Checked(parts, Ring(2, 16))
    device.sides["fill"] = [step for step in device.sides["fill"] if not isinstance(step, WaitSlot)]
    with pytest.raises(AssertionError, match="in use"):
        device.run(min)


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
