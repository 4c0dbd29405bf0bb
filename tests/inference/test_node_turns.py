"""Requests at a node's entrance: they wait before anything is spent on them, are counted, and end as any others do."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2 as httpx
import pytest

from inference.api.vectors.batches import MAX_BATCH_ROWS
from inference.workers.entry.entrance import Entrance
from inference.workers.entry.turnstile import Turnstile
from tests.inference.fake_engine import FakeEngine, RunningNode, Script, running_node
from tests.inference.test_client_gone import until
from tests.inference.test_node_serving import AUTH, HI, load
from wire.refused.refusal import Refusal

NEVER_S = 3_600.0
CHAT: dict[str, Any] = {"model": "acme/m", "messages": HI, "max_tokens": 2}
PLACES = 5
"""Of an engine with four slots, and one beside them."""


class Crowd:
    """Requests of tenants to one node; `answers` are those that have ended."""

    def __init__(self, node: RunningNode, http: httpx.AsyncClient) -> None:
        self._node, self._http = node, http
        self.tasks: list[asyncio.Task[httpx.Response]] = []

    @property
    def engine(self) -> FakeEngine:
        return self._node.shell.engines[0]

    @property
    def tenants(self) -> list[str]:
        """Whose orders the engine has."""
        return [order["tenant"] for order in self.engine.orders]

    def ask(
        self, tenant: str, times: int = 1, *, says: dict[str, str] | None = None, **more: Any
    ) -> list[asyncio.Task[httpx.Response]]:
        return self._ask("chat/completions", CHAT | more, tenant, times, says or {})

    def embed(self, tenant: str, rows: int, times: int = 1) -> list[asyncio.Task[httpx.Response]]:
        return self._ask("embeddings", {"model": "acme/m", "input": ["hi"] * rows}, tenant, times, {})

    def _ask(
        self, path: str, body: dict[str, Any], tenant: str, times: int, says: dict[str, str]
    ) -> list[asyncio.Task[httpx.Response]]:
        url, headers = f"{self._node.url}/v1/{path}", AUTH | {"x-nearfield-tenant": tenant} | says
        new = [
            asyncio.create_task(self._http.post(url, json=body, headers=headers, timeout=60))
            for _ in range(times)
        ]
        self.tasks += new
        return new

    async def worker(self) -> dict[str, Any]:
        status = await self._http.get(f"{self._node.url}/status", headers=AUTH)
        found: dict[str, Any] = status.json()["workers"][0]
        return found

    async def waiting(self, num: int) -> None:
        while (await self.worker())["waiting"] != num:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.002)


@asynccontextmanager
async def crowd(tmp_path: Any, gap_s: float = NEVER_S, **facts: Any) -> AsyncIterator[Crowd]:
    async with running_node(tmp_path, Script(gap_s=gap_s)) as node:
        await load(node, **facts)
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as http:
            made = Crowd(node, http)
            try:
                yield made
            finally:
                for task in made.tasks:
                    task.cancel()
                await asyncio.gather(*made.tasks, return_exceptions=True)
                with suppress(ProcessLookupError):
                    node.shell.engines[0].process.kill()


async def test_who_waits_is_counted_and_others_pass(tmp_path: Any) -> None:
    async with crowd(tmp_path) as room:
        first = room.ask("hog", 9)
        await until(lambda: len(room.engine.orders) == PLACES)
        await room.waiting(4)
        room.ask("ada")
        await until(lambda: "ada" in room.tenants)

        assert len(room.engine.orders) == PLACES + 1
        assert (await room.worker())["waiting"] == 4
        for task in first:
            task.cancel()
        await room.waiting(0)


async def test_who_leaves_lets_the_next_one_in_wherever_it_was(tmp_path: Any) -> None:
    async with crowd(tmp_path) as room:
        inside = room.ask("hog", PLACES)
        await until(lambda: len(room.engine.orders) == PLACES)
        waiting = room.ask("hog", 2)
        await room.waiting(2)
        waiting[0].cancel()
        await room.waiting(1)
        assert len(room.engine.orders) == PLACES
        inside[0].cancel()
        await until(lambda: len(room.engine.orders) == PLACES + 1)
        await room.waiting(0)


async def test_each_sequence_holds_a_place(tmp_path: Any) -> None:
    async with crowd(tmp_path) as room:
        room.ask("hog", n=PLACES - 1)
        await until(lambda: len(room.engine.orders) == PLACES - 1)
        room.ask("hog", 2)
        await room.waiting(1)


async def test_rows_to_embed_wait_for_their_tenants_turn_too(tmp_path: Any) -> None:
    async with crowd(tmp_path, kind="embed", pooling="mean", kv_bytes_per_token=0) as room:
        inside = room.embed("hog", 1, PLACES)
        await until(lambda: len(room.engine.orders) == PLACES)
        room.embed("hog", 1)
        await room.waiting(1)
        room.embed("ada", 1)
        await until(lambda: len(room.engine.orders) == PLACES + 1)
        inside[0].cancel()
        await until(lambda: room.engine.cancelled)
        await room.waiting(1)
        inside[1].cancel()
        await until(lambda: len(room.engine.orders) == PLACES + 2)
        await room.waiting(0)


async def test_each_batch_of_rows_holds_a_place(tmp_path: Any) -> None:
    async with crowd(tmp_path, kind="embed", pooling="mean", kv_bytes_per_token=0) as room:
        room.embed("hog", MAX_BATCH_ROWS * (PLACES - 1))
        await until(lambda: len(room.engine.orders) == PLACES - 1)
        room.embed("hog", 1, 2)
        await room.waiting(1)


async def test_an_engine_that_is_lost_ends_those_who_wait_too(tmp_path: Any) -> None:
    async with crowd(tmp_path) as room:
        asked = room.ask("hog", PLACES + 2)
        await room.waiting(2)
        room.engine.process.kill()
        answers = await asyncio.gather(*asked)

        told = {(answer.status_code, answer.json()["error"]["code"]) for answer in answers}
        assert told == {(503, "worker_lost")}


async def test_a_wait_is_in_the_receipt_and_in_the_figures(tmp_path: Any) -> None:
    async with crowd(tmp_path, gap_s=0.02) as room:
        answers = await asyncio.gather(*room.ask("hog", 2 * PLACES))
        page = (await room._http.get(f"{room._node.url}/metrics", headers=AUTH)).text

        assert {answer.status_code for answer in answers} == {200}
        waits = sorted(queue_ms(answer) for answer in answers)
        assert waits[-1] >= 20.0, "the second five waited for the first"
        total = next(
            line for line in page.splitlines() if line.startswith("nearfield_request_queue_time_seconds_sum")
        )
        assert float(total.split()[-1]) >= PLACES * 0.02, "which the engine, that saw no queue, cannot know"
        told = [order["has_waited"] for order in room.engine.orders]
        assert told == [False] * PLACES + [True] * PLACES, "so it is told"


async def test_the_engine_hears_of_a_wait_at_the_edge_too(tmp_path: Any) -> None:
    async with crowd(tmp_path, gap_s=0.0) as room:
        for said in ("1", "0", "yes"):
            await asyncio.gather(*room.ask("hog", says={"x-nearfield-waited": said}))

        assert [order["has_waited"] for order in room.engine.orders] == [True, False, False]


def queue_ms(answer: httpx.Response) -> float:
    parts = answer.headers["server-timing"].split(", ")
    return next(float(part.partition("dur=")[2]) for part in parts if part.startswith("node.queue;"))


@pytest.fixture
def entrance() -> Iterator[Entrance]:
    made = Entrance(lambda: 0.0)
    made._turnstile = Turnstile(2, max_waiting=2)
    yield made
    made._turnstile.check()


async def test_a_full_queue_refuses_with_the_time_after_which_to_come_back(entrance: Entrance) -> None:
    await entrance.come("hog", 1, 0, 1)
    await entrance.come("hog", 1, 0, 1)
    waiting = [asyncio.create_task(entrance.come("hog", 1, 0, 1)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(Refusal) as told:
        await entrance.come("hog", 1, 0, 1)
    assert (told.value.status, told.value.code) == (429, "overloaded")
    assert dict(told.value.headers())["retry-after"] == "1"
    await entrance.come("ada", 1, 0, 1)
    ada = asyncio.create_task(entrance.come("ada", 1, 0, 1))
    with pytest.raises(Refusal):  # the last of the tenant with most
        await waiting[1]
    assert not ada.done()
    for task in (ada, waiting[0]):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert entrance.num_waiting == 0


async def test_who_is_failed_is_not_let_in_by_those_who_leave_in_the_same_moment(entrance: Entrance) -> None:
    guests = [(await entrance.come("hog", 1, 0, 1))[0] for _ in range(2)]
    waiting = [asyncio.create_task(entrance.come("hog", 1, 0, 1)) for _ in range(2)]
    await asyncio.sleep(0)
    entrance.fail_all(Refusal(503, "worker_lost", "It is gone."))
    for guest in guests:
        entrance.leave(guest)

    for task in waiting:
        with pytest.raises(Refusal):
            await task
    assert entrance.num_waiting == 0
    waits = [(await entrance.come("hog", 1, 0, 1))[1] for _ in range(2)]
    assert waits == [False, False], "their places are free again"


async def test_who_is_let_in_and_leaves_in_the_same_moment_gives_its_place_on(entrance: Entrance) -> None:
    guests = [(await entrance.come("hog", 1, 0, 1))[0] for _ in range(2)]
    first, second = (asyncio.create_task(entrance.come("hog", 1, 0, 1)) for _ in range(2))
    await asyncio.sleep(0)
    entrance.leave(guests[0])
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    guest, has_waited = await second
    assert guest.is_inside
    assert has_waited
