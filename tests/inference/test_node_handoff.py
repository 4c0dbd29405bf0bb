"""A node beside its region's store: a cold start maps the store's own files, and the tokens are the same."""

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from inference.node import NodeSettings, handoff_of, run
from storage.client.endpoint import SOCKET_NAME
from tests import zygote
from tests.inference.conftest import LivingShell
from tests.inference.fake_engine import HOP_TOKEN
from tests.inference.test_node_real import (
    PROMPT,
    RealNode,
    check_mold,
    greedy,
    make_folder,
    real_node,
    streamed,
)
from tests.storage.stores import Raw, StoreThread, memory_folder
from tests.weights_cache.locking import needs_locking
from tests.weights_cache.samples import described, tiny_files
from weights_cache.model.revision import Revision
from weights_cache.reading.handoff import NoHandoff, StoreHandoff

pytestmark = [needs_locking, pytest.mark.asyncio(loop_scope="session")]

WAIT_S = 30.0


@pytest.fixture
def store() -> Iterator[StoreThread]:
    thread = StoreThread(memory_folder(), min_part_bytes=1)
    with Raw(thread.endpoint()) as raw:
        assert raw.send("PUT", "/nearfield-blobs").status == 200
    yield thread
    thread.stop()
    shutil.rmtree(thread.settings.root)


@asynccontextmanager
async def beside(store: StoreThread, tmp_path: Path, shell: LivingShell) -> AsyncIterator[RealNode]:
    handoff = StoreHandoff(store.settings.root / SOCKET_NAME, store.endpoint())
    async with real_node(tmp_path, shell, handoff) as node:
        yield node


def put_blobs(store: StoreThread, revision: Revision, folder: Path) -> None:
    with Raw(store.endpoint()) as raw:
        for entry in revision.files:
            data = (folder / entry.path).read_bytes()
            assert raw.put("nearfield-blobs", entry.blake3, data).status == 200


def in_two_shards(folder: Path) -> None:
    """The model's one weight file as two and their index, as large models come."""
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
        "weight_map": weight_map,
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    whole.unlink()


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not fact():  # noqa: ASYNC110 - files in another process' folder
            await asyncio.sleep(0.01)


async def receipt_of(node: RealNode, name: str) -> dict[str, Any]:
    body = {"model": name, "prompt": PROMPT, "max_tokens": 2, "temperature": 0, "stream": True}
    answer = await node.post("completions", **body)
    lines = [line for line in answer.text.splitlines() if line.startswith(": nearfield")]
    return dict(json.loads(lines[-1].partition("{")[1] + lines[-1].partition("{")[2]))


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_cold_start_maps_the_stores_files_and_answers_as_before(
    store: StoreThread, tmp_path: Path, living_shell: LivingShell, shards: int
) -> None:
    """Same tokens as transformers; every byte mapped, none read; said in the load, the receipt and the status."""
    folder = tmp_path / "model"
    model = make_folder(folder)
    if shards == 2:
        in_two_shards(folder)
    async with beside(store, tmp_path, living_shell) as node:
        revision = await node.commit(folder, "acme/m")
        put_blobs(store, revision, folder)
        line = await node.load(revision)
        receipt = await receipt_of(node, "acme/m")
        text, _ = await streamed(node, model="acme/m", prompt=PROMPT, max_tokens=24, temperature=0)
        status = (await node.http.get(f"{node.url}/status")).json()
        num_bytes = sum(extent.length for extent in revision.extents)

        assert (line["phase"], line["start"], line["copied_bytes"]) == ("ready", "region", 0), line
        assert line["bytes"] == {"remote": 0, "region": 0, "copied": 0, "mapped": num_bytes, "host": 0}
        assert (receipt["start"], receipt["bytes"]) == ("region", line["bytes"])
        assert text == greedy(model, PROMPT, 24)
        assert [entry["mapped_bytes"] for entry in status["cache"]] == [num_bytes]


async def test_without_the_store_it_reads_and_says_so(
    store: StoreThread, tmp_path: Path, living_shell: LivingShell
) -> None:
    """The same model through the reader: the same tokens, other words."""
    folder = tmp_path / "model"
    model = make_folder(folder)
    async with real_node(tmp_path, living_shell) as node:
        revision = await node.commit(folder, "acme/m")
        line = await node.load(revision)
        text, _ = await streamed(node, model="acme/m", prompt=PROMPT, max_tokens=24, temperature=0)
        num_bytes = sum(extent.length for extent in revision.extents)

        assert line["bytes"] == {"remote": 0, "region": num_bytes, "copied": 0, "mapped": 0, "host": 0}
        assert text == greedy(model, PROMPT, 24)


async def test_each_way_of_a_revisions_bytes_has_a_mold_of_its_own(
    store: StoreThread, tmp_path: Path, living_shell: LivingShell
) -> None:
    """One whose bytes are mapped and one whose were read are laid out unlike: the mold of either serves no other."""
    folder = tmp_path / "model"
    model = make_folder(folder)
    async with beside(store, tmp_path / "beside", living_shell) as node:
        revision = await node.commit(folder, "acme/m")
        put_blobs(store, revision, folder)
        assert (await node.load(revision))["bytes"]["mapped"]
        await check_mold(node, revision, model)
    async with real_node(tmp_path / "far", living_shell) as node:
        revision = await node.commit(folder, "acme/m")
        assert (await node.load(revision))["bytes"]["region"]
        await check_mold(node, revision, model)


async def test_a_served_model_outlives_its_object_and_its_store(
    store: StoreThread, tmp_path: Path, living_shell: LivingShell
) -> None:
    """Deleted, and the store stopped: answers go on, also from a new engine; cooled to the region the file goes."""
    folder = tmp_path / "model"
    model = make_folder(folder)
    wanted = greedy(model, PROMPT, 12)
    body: dict[str, Any] = {"model": "acme/m", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    async with beside(store, tmp_path, living_shell) as node:
        revision = await node.commit(folder, "acme/m")
        put_blobs(store, revision, folder)
        assert (await node.load(revision))["bytes"]["mapped"] > 0
        held = files_of(store)
        with Raw(store.endpoint()) as raw:
            for entry in revision.files:
                raw.delete("nearfield-blobs", entry.blake3)
            raw.put("nearfield-blobs", "later", b"x" * 20_000)
        assert held <= files_of(store)
        assert (await streamed(node, **body))[0] == wanted

        worker = node.node.host.find(revision.id, "acme/m")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        await worker.gone.wait()
        again = await node.load(revision)
        assert (again["start"], again["bytes"]["mapped"]) == ("host", 0)
        assert (await streamed(node, **body))[0] == wanted

        told = {"revision": revision.id, "to": "region"}
        assert (await node.http.post(f"{node.url}/unload", json=told)).status_code == 200
        await until(lambda: not held & files_of(store))


def files_of(store: StoreThread) -> set[Path]:
    return {each for each in (store.settings.root / "blobs").rglob("*") if each.is_file()}


def settings_with(store: StoreThread, state: Path, socket: Path | None) -> NodeSettings:
    return NodeSettings(
        region="iad",
        host="127.0.0.1",
        port=0,
        store=store.endpoint(),
        hop_token=HOP_TOKEN,
        state=state,
        memory_budget_bytes=1 << 30,
        host_cache_bytes=1 << 30,
        store_socket=socket,
        zygote=zygote.folder(),
    )


async def test_a_store_that_hangs_on_this_host_costs_the_role_one_stall(
    store: StoreThread, tmp_path: Path
) -> None:
    """`store_stall_s`, as for a read: a start is not held up for longer because the store is near."""
    deaf = socket.socket(socket.AF_UNIX)
    deaf.bind(str(store.settings.root / "deaf.sock"))
    deaf.listen()
    settings = replace(settings_with(store, tmp_path, store.settings.root / "deaf.sock"), store_stall_s=0.2)
    revision = described(tiny_files())
    given = await asyncio.wait_for(asyncio.to_thread(handoff_of(settings).give, revision), WAIT_S / 3)
    deaf.close()

    assert (given.mapped, given.objects) == ((), {})


async def test_the_role_takes_the_socket_it_is_told_of(store: StoreThread, tmp_path: Path) -> None:
    """`run`, as `nearfield run node` calls it: with a socket it asks there, without one it asks nobody."""
    assert isinstance(handoff_of(settings_with(store, tmp_path, None)), NoHandoff)
    path = store.settings.root / SOCKET_NAME
    assert isinstance(handoff_of(settings_with(store, tmp_path, path)), StoreHandoff)
    ready, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
    running = asyncio.create_task(run(settings_with(store, tmp_path / "n", path), ready.set_result, stop))
    assert await asyncio.wait_for(ready, WAIT_S) > 0
    stop.set()
    await asyncio.wait_for(running, WAIT_S)
