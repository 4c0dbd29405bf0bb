"""Revisions that share tensors: only what differs is moved, what was shared is said, and every byte is checked."""

import json
import os
import struct

import pytest

from storage.client.sdk import Endpoint
from weights_cache.cache import HostTier
from weights_cache.model.plan import layout
from weights_cache.reading.handoff import Given
from weights_cache.reading.store_socket import OpenObject, Run

from .samples import described, landed_bytes
from .store_script import ScriptedStore, objects_of
from .test_landing import contents

CAP = 64 << 20
WIDTH = 64
MATRIX_BYTES = 4 * WIDTH * WIDTH
NUM_LAYERS = 4
LAYER_BYTES = 2 * MATRIX_BYTES
ALL_BYTES = MATRIX_BYTES * 2 + NUM_LAYERS * LAYER_BYTES  # embedding, head, layers


def tensors(seed=0):
    """A model's tensors by name: each is bytes that no other has."""
    names = ["model.embed_tokens.weight"]
    names += [
        f"model.layers.{layer}.{part}.weight" for layer in range(NUM_LAYERS) for part in ("attn", "mlp")
    ]
    return {name: tensor(f"{seed}/{name}") for name in [*names, "lm_head.weight"]}


def tensor(name):
    return (name.encode() * (MATRIX_BYTES // len(name) + 1))[:MATRIX_BYTES]


def files_of(values, metadata=""):
    """One safetensors file, in the order given; `metadata` moves every offset."""
    header, at = {"__metadata__": {"note": metadata}}, 0
    for name, data in values.items():
        header[name] = {"dtype": "F32", "shape": [WIDTH, WIDTH], "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header).encode()
    return {"model.safetensors": struct.pack("<Q", len(head)) + head + b"".join(values.values())}


BASE = tensors()
ADAPTED = BASE | {f"model.layers.2.{part}.weight": tensor(f"new {part}") for part in ("attn", "mlp")}
WITH_HEAD = {
    "score.weight": tensor("score")
} | BASE  # an extent is one or more whole neighbours, so it stands apart
RETRAINED = tensors(seed=1) | {"model.embed_tokens.weight": BASE["model.embed_tokens.weight"]}
VARIANTS = {  # its tensors, and the bytes of it that the base has too
    "adapter merged into one layer": (ADAPTED, ALL_BYTES - LAYER_BYTES),
    "a head more": (WITH_HEAD, ALL_BYTES),
    "all trained but the embedding": (RETRAINED, MATRIX_BYTES),
}


class House:
    """A store with the base and a variant, and a tier before it."""

    def __init__(self, variant, **tier):
        self.files = {"base": files_of(BASE), "variant": files_of(variant, "a longer header")}
        self.revisions = {name: described(files, f"acme/{name}") for name, files in self.files.items()}
        objects = {}
        for name, revision in self.revisions.items():
            objects |= objects_of(revision, self.files[name])
        self.store = ScriptedStore(objects)
        self.tier = HostTier(Endpoint(self.store.url, "AK", "s"), CAP, **tier)

    def land(self, name):
        landing = self.tier.land(self.revisions[name])
        assert landing.wait(60)
        return landing

    def is_right(self, name, landing):
        return contents(landing, self.revisions[name]) == landed_bytes(self.revisions[name], self.files[name])

    def close(self):
        self.tier.close()
        self.store.close()


@pytest.fixture(params=VARIANTS)
def variant(request):
    tensors, shared_bytes = VARIANTS[request.param]
    house = House(tensors)
    yield house, shared_bytes
    house.close()


def test_only_what_differs_is_moved(variant):
    """Three variants of known overlap: the store gives the rest and no more, and the landing is right."""
    house, shared_bytes = variant
    house.land("base")
    house.store.requests.clear()
    landing = house.land("variant")
    moved_bytes = landing.total_bytes - shared_bytes

    assert (landing.shared_bytes, landing.host_bytes) == (shared_bytes, shared_bytes)
    asked_bytes = sum(last + 1 - first for _, first, last, _ in house.store.requests)
    assert landing.bytes_read == asked_bytes == moved_bytes
    assert house.is_right("variant", landing)
    assert house.land("variant").shared_bytes == 0  # a hit shares nothing: all of it is here


def test_a_start_tells_what_is_shared_before_all_of_it_was_looked_at(variant):
    """An engine is ready long before its bytes are here, and its node says then where they come from."""
    house, shared_bytes = variant
    house.land("base")
    house.store.delay_s = 0.3
    landing = house.tier.land(house.revisions["variant"])
    told = [(landing.shared_bytes, landing.host_bytes)]
    while not landing.wait(0.01):
        told.append((landing.shared_bytes, landing.host_bytes))

    assert {*told} == {(shared_bytes, shared_bytes)} == {(landing.shared_bytes, landing.host_bytes)}


def test_two_that_share_and_start_together():
    """What has landed for one is taken by the other; between them nothing is lost and nothing is wrong."""
    house = House(ADAPTED)
    house.store.delay_s = 0.01
    both = {name: house.tier.land(house.revisions[name]) for name in ("base", "variant")}
    for name, landing in both.items():
        assert landing.wait(60)
        assert house.is_right(name, landing)
        assert landing.bytes_read + landing.shared_bytes == landing.total_bytes
    house.close()


def test_a_byte_that_went_wrong_in_memory_is_not_passed_on():
    """The copy is checked like bytes from the store: it is not right, so the store is asked."""
    house = House(WITH_HEAD)
    base = house.land("base")
    places = layout(house.revisions["base"].files, house.revisions["base"].tensors)
    wrong = next(each for each in house.revisions["base"].extents if each.layer == 1)
    house.tier._seats[base.revision_id].flight.buffer.view()[places.place(wrong)] ^= 1
    landing = house.land("variant")

    assert landing.shared_bytes == ALL_BYTES - LAYER_BYTES
    assert house.is_right("variant", landing)
    house.close()


def test_what_was_evicted_is_not_shared():
    """Gone is gone: all of the variant comes from the store."""
    house = House(ADAPTED)
    house.land("base")
    assert house.tier.evict(house.revisions["base"].id)
    landing = house.land("variant")

    assert (landing.shared_bytes, landing.bytes_read) == (0, landing.total_bytes)
    assert house.is_right("variant", landing)
    house.close()


def test_a_shared_load_says_nothing_of_the_stores_bandwidth():
    """Memory is faster than a store; what it gave is not counted as the store's rate."""
    big = {f"model.layers.{n}.w.weight": os.urandom(MATRIX_BYTES) for n in range(40)}
    house = House({"lm_head.weight": os.urandom(MATRIX_BYTES)} | big)
    house.files["base"], house.revisions["base"] = files_of(big), described(files_of(big), "acme/base")
    house.store.objects |= objects_of(house.revisions["base"], house.files["base"])
    house.land("base")
    before = house.tier.store_bytes_per_s
    assert before
    assert house.land("variant").shared_bytes == 40 * MATRIX_BYTES

    assert house.tier.store_bytes_per_s == before
    house.close()


class InPieces:
    """A store of this host that hands every object over as two pieces, which cannot be mapped."""

    def __init__(self, folder):
        self.folder, self.objects = folder, {}

    def give(self, revision):
        return Given(objects={number: self.open(revision, number) for number in revision.weight_files})

    def open(self, revision, number):
        data = self.objects[revision.id]
        half, runs = len(data) // 2, []
        for start, part in ((0, data[:half]), (half, data[half:])):
            path = self.folder / f"{revision.id}-{start}"
            path.write_bytes(part)
            runs.append(Run(start, len(part), os.open(path, os.O_RDONLY), 0))
        return OpenObject("", len(data), tuple(runs), tuple(run.fd for run in runs))


def test_a_store_of_this_host_copies_only_what_differs(tmp_path):
    """With the hand-off the shared part is taken from memory too, and is not counted as copied from its files."""
    handoff = InPieces(tmp_path)
    house = House(ADAPTED, handoff=handoff)
    handoff.objects = {
        house.revisions[name].id: files["model.safetensors"] for name, files in house.files.items()
    }
    assert house.land("base").copied_bytes == ALL_BYTES
    landing = house.land("variant")

    assert (landing.shared_bytes, landing.copied_bytes) == (ALL_BYTES - LAYER_BYTES, LAYER_BYTES)
    assert (landing.bytes_read, house.store.requests) == (0, [])
    assert house.is_right("variant", landing)
    house.close()
