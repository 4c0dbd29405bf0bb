"""Slowloris and slow readers: gone by their deadline, small while they last, and unfelt by everybody else."""

import asyncio
import contextlib
import json
import os
import socket
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from tests.attack.http.crowd import KINDS, Crowd
from tests.attack.http.lateness import Lateness
from tests.edge.world import BODY, USER
from tests.evidence import IS_WHOLE
from tests.wire.test_serve import Client, serving, until
from wire.dial import Pool
from wire.http.limits import Limits
from wire.listener.dropping import LINGER_S
from wire.secured.tls import client_context

ROOT = Path(__file__).parents[3]
NUM_SLOW, NUM_NORMAL = 2_000, 200
QUIET_S, CROWD_S = 10.0, 25.0
EACH_S = 1.0  # a normal client asks so often
DEADLINES_S = {
    "head": 10.0 + LINGER_S,
    "body": 5.1 + LINGER_S,
    "silent": 10.0,
}  # of the edge's listener, and the time to read the answer; of a reader it is a minute
ALL_OUT = 0.98  # of a kind's clients, as many as must be there before the time begins
LATE_S = 3.0  # the sweep, and a machine that does other things
KIB = 1024


async def test_the_slow_go_by_their_deadline_and_the_others_are_answered():
    async def handler(exchange):
        await exchange.read_body(10**6)
        large = exchange.head.path == "/v1/embeddings"
        await exchange.respond(200, (), b"x" * 20_000_000 if large else b"ok")

    limits = Limits(head_s=0.3, body_grace_s=0.3, write_stall_s=0.3, idle_s=60.0)
    async with serving(handler, limits=limits) as server:
        crowd = Crowd(server.port, None)
        slow = [asyncio.ensure_future(crowd.one(kind, again=False)) for kind in KINDS for _ in range(15)]
        normal = [await Client.open(server) for _ in range(10)]
        for _ in range(5):
            for client in normal:
                client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            for client in normal:
                status, _, body = await client.answer()
                assert (status, body) == (200, b"ok")
            await asyncio.sleep(0.05)
        await asyncio.wait_for(asyncio.gather(*slow), 60)
        assert {kind: len(lives) for kind, lives in crowd.lives.items()} == dict.fromkeys(KINDS, 15)
        for client in normal:
            await client.close()
        await until(lambda: server.num_connections == 0)


@contextlib.asynccontextmanager
async def holding(server, num, data, arrived):
    """Bytes of Python's memory that each of `num` connections takes once it has sent `data`."""
    loop = asyncio.get_running_loop()
    socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(num)]
    await until(lambda: server.num_connections == num)
    tracemalloc.start()
    sending = []
    for sock in socks:
        sock.setblocking(False)
        sending.append(asyncio.ensure_future(loop.sock_sendall(sock, data)))
    try:
        await until(lambda: all(map(arrived, server._roster.members)))
        yield tracemalloc.get_traced_memory()[0] / num
    finally:
        tracemalloc.stop()
        for task, sock in zip(sending, socks, strict=True):
            task.cancel()
            sock.close()


async def never(exchange):
    await asyncio.sleep(100)


async def test_a_slow_head_costs_its_bytes():
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 2_500
    async with (
        serving(never) as server,
        holding(server, 40, head, lambda each: each._gate.num_waiting_bytes == len(head)) as num_bytes,
    ):
        assert num_bytes < 64 * KIB


async def test_a_body_in_tiny_chunks_costs_its_bytes():
    """Of ten bytes in a chunk each would else be an object of 43, in a list of pointers."""
    body = (
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"a\r\n0123456789\r\n" * 50_000
    )
    limits = Limits(read_buffer_bytes=64 * KIB)
    async with (
        serving(never, limits=limits) as server,
        holding(server, 8, body, lambda each: not each._reading) as num_bytes,
    ):
        assert num_bytes < 4 * limits.read_buffer_bytes


def rss_kib(pid: int) -> int:
    with Path(f"/proc/{pid}/statm").open() as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // KIB


async def normal_clients(port: int, ca: Path, seconds: float) -> list[float]:
    """NUM_NORMAL kept connections that ask now and then, spread evenly: the seconds of each answer."""
    took: list[float] = []

    async def one(number: int) -> None:
        pool = Pool("127.0.0.1", port, tls=client_context(ca))
        headers = (("authorization", f"Bearer {USER}"), ("content-type", "application/json"))
        await asyncio.sleep(EACH_S * number / NUM_NORMAL)
        end = time.monotonic() + seconds
        first = True
        while time.monotonic() < end:
            began = time.perf_counter()
            answer = await pool.request("POST", "/v1/chat/completions", headers, BODY)
            assert answer.head.status == 200
            await answer.read()
            if not first:  # which pays for the connection
                took.append(time.perf_counter() - began)
            first = False
            await asyncio.sleep(EACH_S)
        await pool.close()

    await asyncio.gather(*map(one, range(NUM_NORMAL)))
    return took


def p99_ms(took: list[float]) -> float:
    return statistics.quantiles(took, n=100)[98] * 1000


@contextlib.asynccontextmanager
async def child(*args: str):
    """A process of a module; it ends with its input, or is killed where this fails: nobody else ends it then."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *args, cwd=ROOT, stdin=pipe, stdout=pipe
    )
    try:
        yield process
        process.stdin.close()
    except BaseException:
        process.kill()
        raise
    finally:
        await process.wait()


@pytest.mark.skipif(not IS_WHOLE, reason="2,000 slow clients for a minute: make evidence")
@pytest.mark.timeout(300)
async def test_two_thousand_slow_clients_are_not_felt(tmp_path):
    """Of the others' p99 it says too how late the loops of the edge and of their own process were: with both and a
    crowd on two cores the one that was late need not be the edge."""
    async with child("tests.attack.http.standing", str(tmp_path)) as edge, Lateness.watched() as own:
        port, ca = json.loads(await edge.stdout.readline())["port"], tmp_path / "ca.pem"

        async def late_p99_ms() -> float:
            edge.stdin.write(b"\n")
            return json.loads(await edge.stdout.readline())["late_p99_ms"]

        quiet = p99_ms(await normal_clients(port, ca, QUIET_S))
        before_kib = rss_kib(edge.pid)
        late_quiet = own.take_p99_ms(), await late_p99_ms()
        order = "tests.attack.http.crowd", str(port), str(ca), str(CROWD_S + 2), str(NUM_SLOW)
        async with child(*order) as crowd:
            assert await crowd.stdout.readline() == b"here\n"
            own.take_p99_ms(), await late_p99_ms()
            beside = p99_ms(await normal_clients(port, ca, CROWD_S))
            late_beside = own.take_p99_ms(), await late_p99_ms()
            each_kib = (rss_kib(edge.pid) - before_kib) / NUM_SLOW
            said = json.loads(await crowd.stdout.readline())
    sys.stderr.write(f"\nnormal p99 {quiet:.2f} ms, beside {said['open']} slow ones {beside:.2f} ms; ")
    for when, (own_ms, edge_ms) in (("quiet", late_quiet), ("beside", late_beside)):
        sys.stderr.write(
            f"{when}: clients' loop late by {own_ms:.2f} ms, the edge's by {edge_ms:.2f} (p99); "
        )
    sys.stderr.write(f"{each_kib:.1f} KiB each; {said['kinds']}\n")
    for kind, deadline_s in DEADLINES_S.items():
        assert said["kinds"][kind]["out"] >= NUM_SLOW / len(KINDS) * ALL_OUT
        assert said["kinds"][kind]["longest_s"] <= deadline_s + LATE_S
    assert each_kib <= 64
    assert beside <= 2 * quiet
