"""A deploy proves itself; a preview is served beside its model for no second copy of a byte, and becomes it and goes.

One model's way through all of it, in order: each test goes on where the last one stopped.
"""

import json
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
import torch
from safetensors.torch import load_file, save_file

from deploy.config.read import load
from deploy.schemas.outputs import OUTPUTS
from deploy.terminal.exits import Exit
from tests.deploy.conforms import breaches
from tests.e2e.platform import TINYCHAT, RunningPlatform, questions, wait_for

MODEL = "acme/proven"
PREVIEW, BAD = f"{MODEL}@pr-1", f"{MODEL}@bad"
REGIONS = ("iad", "fra")
PROMPT = questions()[0]


@pytest.fixture(scope="module")
def proven(platform: RunningPlatform):
    """The model, live in two regions; what its push said."""
    yield _json(platform, "push", str(TINYCHAT), MODEL, "--regions", ",".join(REGIONS))
    for each in (PREVIEW, BAD, MODEL):
        platform.nearfield("rm", each, "--yes", check=False)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights with another answer: it is to be short."""
    folder = tmp_path_factory.mktemp("changed") / "model"
    shutil.copytree(TINYCHAT, folder)
    path = folder / "generation_config.json"
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(said | {"max_length": 77}))
    return folder


def _json(platform: RunningPlatform, *words: str, check: bool = True):
    return json.loads(platform.nearfield(*words, "--json", check=check).stdout)


def _ask(platform: RunningPlatform, model: str, region: str | None = None) -> str:
    done = platform.openai(region).chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": PROMPT["question"]}],
        temperature=0,
        max_tokens=64,
    )
    return (done.choices[0].message.content or "").strip()


def _stored_bytes(platform: RunningPlatform) -> int:
    """On the disks of all stores, each file once however often it is linked."""
    stores = load(platform.state / "nearfield.toml").stores.values()
    files = (path for store in stores for path in (Path(store.root) / "blobs").rglob("*") if path.is_file())
    return sum({stat.st_ino: stat.st_size for stat in (path.stat() for path in files)}.values())


@contextmanager
def _asking(platform: RunningPlatform, model: str):
    """Requests one after another from two clients while the block runs; every answer, or what was said instead."""
    said, stop = [], threading.Event()

    def ask() -> None:
        client = platform.openai()
        while not stop.is_set():
            try:
                client.completions.create(model=model, prompt="hello", max_tokens=4, temperature=0)
                said.append("answered")
            except openai.OpenAIError as error:
                said.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for each in threads:
        each.start()
    try:
        wait_for(lambda: len(said) > 2, 60, "requests under way")
        yield said
        before = len(said)
        wait_for(lambda: len(said) > before + 2, 60, "requests after it")
    finally:
        stop.set()
        for each in threads:
            each.join()


def test_a_push_says_what_it_proved_in_each_region(platform: RunningPlatform, proven):
    told = _json(platform, "revisions", MODEL)

    assert breaches(proven, OUTPUTS["push"]) == []
    assert breaches(told, OUTPUTS["revisions"]) == []
    assert [each["region"] for each in proven["changes"]] == sorted(REGIONS)
    assert proven["before"] is None
    for proof in proven["proofs"]:
        assert proof["ok"]
        assert min(proof["cold_s"], proof["warm_s"]) > 0
        assert proof["phases"]
        assert proof["bytes"]["origin"] == 0, "the same bytes are there as another model's"
    assert [each["role"] for each in told["revisions"]] == ["current"]
    assert {each["region"] for each in told["revisions"][0]["proofs"]} == set(REGIONS)


def test_a_preview_has_its_own_name_and_no_second_copy_of_any_byte(
    platform: RunningPlatform, proven, changed
):
    weights = (TINYCHAT / "model.safetensors").stat().st_size
    before = _stored_bytes(platform)
    pushed = _json(platform, "push", str(changed), MODEL, "--preview", "pr-1")
    grown = _stored_bytes(platform) - before

    assert breaches(pushed, OUTPUTS["push"]) == []
    assert pushed["model"] == PREVIEW
    assert pushed["live"] == sorted(REGIONS), "where its model is"
    assert pushed["revision"] != pushed["before"] == proven["revision"]
    assert all(each["warm_ratio"] for each in pushed["changes"])
    assert pushed["uploaded_bytes"] < 100_000, "the weights are shared inside the store"
    assert grown < min(weights, 1_000_000) / 4, f"{grown} bytes more on the disks of three stores"
    assert _ask(platform, PREVIEW) == _ask(platform, MODEL) == PROMPT["answer"]
    assert {MODEL, PREVIEW} <= _json(platform, "ls").keys()
    assert PREVIEW in {each.id for each in platform.openai().models.list()}
    assert platform.row("iad", PREVIEW)["revision"] == pushed["revision"]
    assert platform.row("iad", MODEL)["revision"] == proven["revision"]


def test_a_promotion_and_a_roll_back_lose_no_request(platform: RunningPlatform, proven):
    with _asking(platform, MODEL) as said:
        turned = _json(platform, "promote", PREVIEW)
        back = _json(platform, "rollback", MODEL)
        again = _json(platform, "rollback", MODEL)

    took = [
        f"{1e3 * each['move_s']:.0f} ms, everywhere after {each['live_s']:.2f} s"
        for each in (turned, back, again)
    ]
    print(f"{len(said)} requests; pointer moved in {'; '.join(took)}")
    assert set(said) == {"answered"}, f"{len(said)} requests"
    assert all(breaches(each, OUTPUTS["rollback"]) == [] for each in (turned, back, again))
    assert turned["before"] == back["revision"] == proven["revision"]
    assert turned["revision"] == back["before"] == again["revision"]
    assert [each["live"] for each in (turned, back, again)] == [sorted(REGIONS)] * 3
    assert [each["role"] for each in _json(platform, "revisions", MODEL)["revisions"]] == ["current", "kept"]


def test_numbers_that_are_none_do_not_go_live_and_the_revision_before_serves(
    platform: RunningPlatform, proven, tmp_path
):
    """The error is the cause and the next command; a preview of it harms nobody, and is no promotion."""
    folder = tmp_path / "model"
    shutil.copytree(TINYCHAT, folder)
    tensors = load_file(folder / "model.safetensors")
    spoilt = {name: torch.full_like(each, torch.nan) for name, each in tensors.items()}
    save_file(spoilt, folder / "model.safetensors", metadata={"format": "pt"})
    serving, stored = platform.row("iad", MODEL)["revision"], _stored_bytes(platform)

    refused = platform.nearfield("push", str(folder), MODEL, "--yes", "--json", check=False)
    error = json.loads(refused.stdout)["error"]
    told = _json(platform, "revisions", MODEL)["revisions"]

    assert refused.returncode == Exit.REFUSED
    assert "finite" in error["message"]
    assert error["next"]
    assert platform.row("iad", MODEL)["revision"] == serving
    assert _ask(platform, MODEL, "iad") == PROMPT["answer"]
    assert [proof["ok"] for proof in told[0]["proofs"]] == [False]
    weights = (TINYCHAT / "model.safetensors").stat().st_size
    assert _stored_bytes(platform) - stored >= weights, "what is not there already is seen on the disks"
    previewed = _json(platform, "push", str(folder), MODEL, "--preview", "bad", check=False)
    promoted = _json(platform, "promote", BAD, check=False)
    assert previewed["error"]["message"].startswith("iad: ") or previewed["error"]["message"].startswith(
        "fra: "
    )
    assert promoted["error"]["code"] == "not_proven"
    back = _json(platform, "rollback", MODEL)
    assert back["revision"] == serving, "a roll back means the last that was proven"
    assert platform.row("iad", MODEL)["error"] is None


def test_a_preview_goes_and_its_model_stays(platform: RunningPlatform, proven):
    platform.nearfield("rm", PREVIEW, "--yes")
    missing = platform.nearfield("promote", PREVIEW, "--json", check=False)

    assert PREVIEW not in _json(platform, "ls")
    assert missing.returncode == Exit.NOT_FOUND
    assert _ask(platform, MODEL) == PROMPT["answer"]
