"""`cache_salt`: tenants of an external engine do not share its prefix cache, where that engine knows the parameter."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from inference.outside.kinds import SALTED
from tests.inference.test_outside_node import HI, Outside, entry, outside

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = {"model": "acme/m", "messages": HI}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "acme/m", "prompt": "hi"},
    "/v1/responses": {"model": "acme/m", "input": "hi"},
    "/v1/messages": CHAT | {"max_tokens": 1},
    "/v1/embeddings": {"model": "acme/m", "input": "hi"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outside]:
    folder = tmp_path_factory.mktemp("n")
    kinds: dict[str, dict[str, Any]] = {
        "vllm": {"kind": "vllm", "extra": ("cache_salt",)},
        "sglang": {"kind": "sglang"},
        "llama": {"kind": "llama.cpp", "prepare": ("true",)},
        "other": {"kind": "command", "routes": tuple(BODIES)},
        "plain": {"kind": "vllm", "refuse": ("cache_salt",)},
    }
    made = {name: entry(folder / "log", args=(), **more) for name, more in kinds.items()}
    async with outside(folder, **made) as running:
        yield running


async def salt(peers: Outside, engine: str, tenant: str, path: str, **more: Any) -> Any:
    """What the engine was sent as the salt of one request."""
    await peers.load(engine)
    worker = next(each for each in peers.node.node.host.workers if each.revision.spec.engine == engine)
    headers = {"x-nearfield-tenant": tenant, "x-nearfield-revision": worker.revision.id}
    await peers.http.post(f"{peers.node.url}{path}", json=BODIES[path] | more, headers=headers)
    asked: dict[str, Any] = peers.noted("body")[-1]
    assert peers.noted("path")[-1] == path
    return asked.get("cache_salt")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_each_tenant_has_one_of_its_own_that_nobody_can_guess(peers: Outside, engine: str) -> None:
    for path in sorted(SALTED[engine]):
        ada, again, bob = [await salt(peers, engine, name, path) for name in ("ada", "ada", "bob")]

        assert ada == again != bob
        assert len(bytes.fromhex(ada)) == 32
        assert "ada" not in ada


async def test_two_engines_have_two(peers: Outside) -> None:
    path = "/v1/chat/completions"
    assert await salt(peers, "vllm", "ada", path) != await salt(peers, "sglang", "ada", path)


@pytest.mark.parametrize("engine", ["llama", "other", "plain"])
async def test_who_does_not_know_it_is_not_sent_it(peers: Outside, engine: str) -> None:
    for path in BODIES:
        assert await salt(peers, engine, "ada", path) is None


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/embeddings"])
async def test_nor_is_a_route_without_such_a_field(peers: Outside, path: str) -> None:
    assert await salt(peers, "vllm", "ada", path) is None


async def test_a_clients_own_salt_keeps_apart_within_its_tenant_only(peers: Outside) -> None:
    path = "/v1/chat/completions"
    none = await salt(peers, "vllm", "ada", path)
    one, two = [await salt(peers, "vllm", "ada", path, cache_salt=own) for own in ("a", "b")]
    bobs = await salt(peers, "vllm", "bob", path, cache_salt="a")

    assert len({none, one, two, bobs}) == 4, "bob cannot say ada's"
    assert await salt(peers, "vllm", "ada", path, cache_salt=7) == 7, "for the engine to refuse"
