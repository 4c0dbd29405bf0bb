"""Engines of a mold: what is made before there is a byte is what is made after, and no shell suffers by making it."""

import asyncio
import gc
import os
import signal
import weakref
from contextlib import asynccontextmanager

import pytest
import torch

from inference.engine.attach.mold import Mold, Steps
from inference.engine.attach.weights import attach
from inference.engine.steps.events import Segment
from inference.spec import EngineSpec
from inference.workers.shell import molds, standing
from inference.workers.shell.link import ShellBusy, ShellError
from tests.inference.test_shell_fork import Engine, expected, threads_of
from tests.inference.test_weights_attach import FAMILIES
from tests.inference.tiny import config_values, extent_bytes, landed_model, made
from weights_cache.memory.view import LandingView
from weights_cache.model.plan import MappedFile

pytestmark = pytest.mark.asyncio(loop_scope="session")


def spec_of(revision, model, **changes):
    value = {"revision": revision.as_value(), "config": model.config.to_dict(), "max_slots": 4}
    return EngineSpec.from_value(value | changes)


IDS = (5, 9, 3, 44, 17)


def logits(mold, view, *, gated):
    """Of one pass by an engine of this mold, or by one that is made whole if it has no model."""
    found = attach(
        *(mold.revision, view, mold.model_class, mold.config), dtype="auto", gated=gated, made=mold.made
    )
    assert found.copied_bytes == 0
    steps = mold.steps or Steps.of(found.model, mold.spec, mold.revision)
    return steps.model.forward((Segment("", 0, 0, IDS, samples=True),))[1]


def view_of(mold, landing, *fds):
    return LandingView(mold.addresses, *landing.fds, fds)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_model_made_before_its_bytes_has_the_same_bits(family, gated):
    model = made(family)
    revision, landing, _ = landed_model(model, 2)
    spec = spec_of(revision, model)
    mold, whole = Mold.cast(spec), Mold(spec)
    assert not any(mold.addresses.buffer)
    found = logits(mold, view_of(mold, landing), gated=gated)
    assert torch.equal(found, logits(whole, view_of(whole, landing), gated=gated))


async def test_a_file_that_is_mapped_is_laid_where_the_model_looks(tmp_path):
    model = made("llama")
    revision, landing, blobs = landed_model(model, 2)
    path = tmp_path / "blob"
    path.write_bytes(bytes(123 * 64) + blobs[1])
    start = min(tensor.offset for tensor in revision.tensors if tensor.file == 1)
    mapped = MappedFile(1, 123 * 64 + start)
    mold = Mold.cast(spec_of(revision, model, mapped=[[1, mapped.data_at]]))
    with path.open("rb") as file:
        view = view_of(mold, landing, file.fileno())
    whole = Mold(spec_of(revision, model))
    assert torch.equal(logits(mold, view, gated=False), logits(whole, view_of(whole, landing), gated=False))


@pytest.mark.parametrize(
    "changes", [{"max_slots": 5}, {"num_threads": 2}, {"deterministic": True}, {"mapped": [[0, 4096]]}]
)
async def test_it_makes_only_engines_that_are_alike(changes):
    model = made("llama")
    revision, _, _ = landed_model(model)
    mold = Mold.cast(spec_of(revision, model))
    assert mold.fits(spec_of(revision, model, usage_log="/elsewhere", gated=False))
    assert not mold.fits(spec_of(revision, model, **changes))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"dtype": "bfloat16"}),  # converted
        ("llama", {"quantize": "int8"}),
        ("llama", {"device": "cuda:0"}),
    ],
)
async def test_what_looks_at_bytes_or_wants_a_device_is_not_molded(family, changes):
    model = made(family)
    revision, _, _ = landed_model(model)
    assert Mold.cast(spec_of(revision, model, **changes)) is None


async def test_a_mold_that_is_dropped_is_gone():
    """Its model too, though nothing of it is looked at by the collector any more."""
    model = made("llama")
    revision, _, _ = landed_model(model)
    mold = Mold.cast(spec_of(revision, model))
    gc.collect()
    gc.freeze()
    try:
        model = mold.made.model.model
        left = [weakref.ref(each) for each in (model, model.layers[0], model.layers[0].mlp.up_proj.weight)]
        mold.close()
        del mold, model
        assert [each() for each in left] == [None] * 3
    finally:
        gc.unfreeze()


async def molded(shell, model, landing, key, **changes):
    """Ask for it; whether it is there."""
    value = {"revision": landing.revision.as_value(), "config": model.config.to_dict(), "max_slots": 4}
    async with asyncio.timeout(60):
        return await shell.mold(value | changes, key)


async def forked(shell, landing, model, key, **spec):
    return await Engine.fork(shell, landing, model.config.to_dict(), key=key, **spec)


async def test_engines_of_one_mold_answer_as_generate_does_each_with_its_own_memory(shell):
    model = made("llama")
    _, landing, _ = landed_model(model, eos_token_ids=())
    assert await molded(shell, model, landing, "a mold")
    engines = [await forked(shell, landing, model, "a mold") for _ in range(2)]
    for number, engine in enumerate(engines):
        await engine.add("a", tokens=[5, 9, 3, 44, 17 + number])
    for number, engine in enumerate(engines):
        ready = await engine.until("ready")
        assert (ready["molded"], ready["copied_bytes"], ready["gated"]) == (True, 0, False)
        await engine.until("done", "a")
        assert engine.tokens("a") == expected(model, 8, [5, 9, 3, 44, 17 + number])
        await engine.close()
    assert threads_of(shell.pid) == 1


async def test_a_start_of_another_kind_is_made_whole(shell):
    model = made("llama")
    _, landing, _ = landed_model(model, eos_token_ids=())
    assert await molded(shell, model, landing, "for four")
    engine = await forked(shell, landing, model, "for four", max_slots=5)
    await engine.add("a")
    ready = await engine.until("ready")
    assert (ready["molded"], ready["slots"]) == (False, 5)
    await engine.until("done", "a")
    assert engine.tokens("a") == expected(model, 8)
    await engine.close()


async def test_an_engine_of_a_mold_waits_for_bytes_that_still_land(shell):
    model = made("llama", num_hidden_layers=4, tie_word_embeddings=False)
    revision, landing, blobs = landed_model(model, landed=False)
    assert await molded(shell, model, landing, "early")
    engine = await forked(shell, landing, model, "early")
    await engine.add("a")
    assert (await engine.until("ready"))["molded"]
    for number in range(len(revision.extents)):
        assert not engine.tokens("a")
        landing.land(number, extent_bytes(revision, blobs, number))
    await engine.until("done", "a")
    assert engine.tokens("a") == expected(model, 8)
    await engine.close()


@pytest.mark.parametrize("why", ["not plain", "no such architecture", "no addresses"])
async def test_what_ends_badly_in_the_trial_leaves_the_shell_as_it_was(shell, why):
    model = made("llama")
    _, landing, _ = landed_model(model)
    changes = {"dtype": "bfloat16"} if why == "not plain" else {}
    if why == "no such architecture":
        changes = {"config": {"model_type": "none of these"}}
    if why == "no addresses":
        value = landing.revision.as_value()
        value["files"][0]["size"] = 1 << 50
        changes = {"revision": value}
    assert not await molded(shell, model, landing, why, **changes)
    engine = await forked(shell, landing, model, why)
    assert (await engine.until("ready"))["molded"] is False
    await engine.close()
    assert threads_of(shell.pid) == 1


async def test_the_mold_that_was_used_longest_ago_makes_room(shell, monkeypatch):
    model = made("llama")
    _, landing, _ = landed_model(model)
    there = len(shell._molds)
    monkeypatch.setattr(molds, "MOST_MOLDS", there + 2)
    for key in ("first", "second"):
        assert await molded(shell, model, landing, key)
    for key in [*shell._molds]:
        if key != "second":
            engine = await forked(shell, landing, model, key)  # each but one is used
            await engine.close()
    assert await molded(shell, model, landing, "third")
    assert "second" not in shell._molds
    engine = await forked(shell, landing, model, "second")
    assert (await engine.until("ready"))["molded"] is False
    await engine.close()


async def test_a_mold_without_a_sound_spec_is_refused(shell):
    with pytest.raises(ShellError, match="not an object"):
        await shell.mold([], "none")
    with pytest.raises(ShellError, match="max_slots"):
        await shell.mold({"revision": {}, "config": {}, "max_slots": 0}, "none")


class AskedShell:
    """A shell that is asked for molds: can make the good ones, and refuses the bad."""

    pid = 1

    def __init__(self):
        self.gone = asyncio.get_running_loop().create_future()
        self.asked, self.molds = [], set()

    def has_mold(self, key):
        return key in self.molds

    async def mold(self, spec, key):
        self.asked.append(key)
        if key == "refused":
            raise ShellError("no")
        if key == "busy" and self.asked.count(key) == 1:
            raise ShellBusy("no process")
        self.molds |= {key} - {"not plain"}
        return key in self.molds

    async def close(self):
        pass


@asynccontextmanager
async def standing_shells(monkeypatch, wait_s=0.0):
    """A node's shell that is replaced when it dies, and all that there were."""
    monkeypatch.setattr(standing, "MOLD_AFTER_S", wait_s)
    shells = []

    async def start():
        shells.append(AskedShell())
        return shells[-1]

    shell = standing.StandingShell(start)
    await shell._living()
    yield shell, shells
    await shell.close()


async def ask_for(shell, *keys):
    for key in keys:
        shell.mold_soon(config_values("llama"), key)
        await asyncio.gather(*shell._molding)


async def test_what_cannot_be_made_is_asked_for_once_and_a_refusal_ends_nothing(monkeypatch, caplog):
    async with standing_shells(monkeypatch) as (shell, [one]):
        await ask_for(shell, *(["refused", "good", "not plain"] * 2), "busy", "busy", "busy")
    assert one.asked == ["refused", "good", "not plain", "busy", "busy"], (
        "what may be done later is asked for again"
    )
    assert "made whole at each start: no" in caplog.text


async def test_a_mold_that_made_room_or_whose_shell_died_comes_again(monkeypatch):
    async with standing_shells(monkeypatch) as (shell, shells):
        await ask_for(shell, "good", "not plain")
        shells[0].molds.clear()
        await ask_for(shell, "good")
        shells[0].gone.set_result(None)
        async with asyncio.timeout(30):
            while len(shells) < 2 or not shell.is_up:  # noqa: ASYNC110 - a task of its own starts it
                await asyncio.sleep(0)
        await ask_for(shell, "good", "not plain")
    assert [each.asked for each in shells] == [["good", "not plain", "good"], ["good"]]


async def test_a_shell_that_died_before_it_was_asked_counts_against_no_mold(monkeypatch):
    async with standing_shells(monkeypatch, 0.01) as (shell, shells):
        shell.mold_soon({}, "good")
        shells[0].gone.set_result(None)
        await asyncio.gather(*shell._molding)
        async with asyncio.timeout(30):
            while len(shells) < 2 or not shell.is_up:  # noqa: ASYNC110 - a task of its own starts it
                await asyncio.sleep(0)
        await ask_for(shell, "good")
    assert [each.asked for each in shells] == [[], ["good"]]


async def test_a_node_that_stops_waits_for_no_mold(monkeypatch):
    async with standing_shells(monkeypatch, 60.0) as (shell, [one]):
        shell.mold_soon({}, "later")
    assert not one.asked


async def test_who_waits_for_a_mold_hears_that_the_shell_died(living_shell):
    shell = await living_shell()
    model = made("llama")
    _, landing, _ = landed_model(model)
    monitor = asyncio.create_task(molded(shell, model, landing, "late"))
    await asyncio.sleep(0)
    os.kill(shell.pid, signal.SIGKILL)
    with pytest.raises(ShellError, match="gone"):
        await monitor
