"""No connection that is good for something ends without a count and a line, whoever ended it."""

import asyncio
import logging
import select
import socket
import ssl
import time

import pytest

from tests.wire.test_serve import GET, Client, hello, serving, until
from wire.listener.connection import Connection
from wire.listener.endings import Cause, Endings, Stage
from wire.refused.refusal import Refusal
from wire.refused.sparing import BURST
from wire.serve import Limits

HALF = b"GET / HTTP/1.1\r\nHost: h\r\n"


async def waits(exchange):
    await asyncio.sleep(60)


async def breaks_off(exchange):
    await exchange.start(200, ())
    await exchange.write(b"some")
    raise Refusal(502, "upstream_failed", "It broke off.")


async def never_taken(exchange):
    await exchange.start(200, ())
    while True:
        await exchange.write(b"x" * 65536)


async def says_close(exchange):
    exchange.keep_alive = False
    await hello(exchange)


def quick(**more):
    return Limits(**{"head_s": 0.1, "idle_s": 0.1, "handshake_s": 0.3} | more)


CASES = {
    "nothing comes": (hello, quick(), b"", Cause.UNUSED, "before a byte"),
    "half a head": (hello, quick(), HALF, Cause.HEAD_LATE, "within a head"),
    "no request": (hello, quick(), b"\x16\x03\r\n\r\n", Cause.MALFORMED, "within a head"),
    "an answer that broke": (breaks_off, quick(), GET % b"", Cause.ANSWER_BROKE, "within an answer"),
    "too long": (waits, quick(total_s=0.1), GET % b"", Cause.TOO_LONG, "with a request unanswered"),
    "not taken": (never_taken, quick(write_stall_s=0.2), GET % b"", Cause.ANSWER_STALLED, "within an answer"),
    "behind the last": (says_close, quick(), GET % b"" + HALF, Cause.CLOSE_SAID, "within a head"),
    "one too many": (hello, quick(max_connections=0), b"", Cause.TOO_MANY, "before a byte"),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_a_server_ends_is_told_once_with_its_cause(case, caplog):
    handler, limits, sent, cause, stage = CASES[case]
    endings = Endings("listener main", logging.INFO)
    with caplog.at_level(logging.INFO, "nearfield.wire"):
        async with serving(handler, limits=limits, endings=endings) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as sock:
                sock.send(sent)
                await until(lambda: endings.num)
        assert endings.num == {cause: 1}
        lines = [each.getMessage() for each in caplog.records if "a connection ended" in each.getMessage()]
        assert len(lines) == 1
        assert lines[0].startswith(f"listener main: a connection ended {stage}: {cause}")


@pytest.mark.parametrize(("sent", "num"), [(b"", 1), (HALF, 1), (GET % b"", 1), (None, 0)])
async def test_a_client_that_leaves_is_counted_unless_it_leaves_nothing_behind(sent, num):
    """`None`: it has had its answer."""
    endings = Endings()
    async with serving(hello if sent is None else waits, endings=endings) as server:
        client = await Client.open(server)
        client.send(GET % b"" if sent is None else sent)
        if sent is None:
            await client.answer()
        await until(lambda: server.num_connections == 1)
        await asyncio.sleep(0.05)
        await client.close()
        await until(lambda: server.num_connections == 0)
        assert endings.num.get(Cause.CLIENT_LEFT, 0) == num
        assert endings.num.total() == num


async def test_a_connection_between_requests_ends_without_a_word():
    endings = Endings()
    async with serving(hello, limits=quick(), endings=endings) as server:
        client = await Client.open(server)
        client.send(GET % b"")
        await client.answer()
        assert await client.rest() == b""
        await client.close()
    assert not endings.num


async def test_a_drain_and_an_end_tell_of_whom_they_left_without_an_answer():
    endings = Endings()
    async with serving(waits, endings=endings) as server:
        asking, silent = [await Client.open(server) for _ in range(2)]
        asking.send(GET % b"")
        await until(lambda: server.num_connections == 2)
        await server.drain(0.6)
        assert endings.num == {Cause.DRAINED: 1, Cause.SHUT_DOWN: 1}
        for client in (asking, silent):
            await client.close()


@pytest.mark.parametrize(
    ("said", "cause"),
    [(b"no hello of TLS at all\r\n\r\n", Cause.TLS_FAILED), (b"", Cause.TLS_LATE), (None, Cause.CLIENT_LEFT)],
)
async def test_a_handshake_that_comes_to_nothing_is_told(tls, said, cause):
    """`None`: the client goes away before it has said anything."""
    endings = Endings()
    async with serving(hello, tls=tls[0], limits=quick(), endings=endings) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            if said is None:
                sock.close()
            elif said:
                sock.send(said)
            await until(lambda: endings.num)
    assert endings.num == {cause: 1}


async def test_a_fault_of_ours_that_looks_like_the_sockets_own_is_told(caplog, monkeypatch):
    """An event loop closes a connection without a word where its protocol raises an OSError."""

    def broken(connection, data):
        raise ssl.SSLError("something of an upstream's")

    monkeypatch.setattr(Connection, "_received", broken)
    endings = Endings()
    async with serving(hello, endings=endings) as server:
        client = await Client.open(server)
        client.send(GET % b"")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.head()
        await client.close()
    assert endings.num == {Cause.FAULT: 1}
    assert any(each.exc_info and each.levelno == logging.ERROR for each in caplog.records)


async def test_a_handler_that_somebody_else_cancels_still_answers(caplog):
    async def cancelled(exchange):
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    async with serving(cancelled) as server:
        client = await Client.open(server)
        client.send(GET % b"")
        status, _, body = await client.answer()
        await client.close()
    assert (status, b"internal_error" in body) == (500, True)
    assert any("handler cancelled" in each.getMessage() for each in caplog.records)


@pytest.mark.parametrize("is_used", [True, False])
async def test_a_request_that_came_while_the_server_stood_still_is_read_before_its_time_is_held_against_it(
    is_used,
):
    """Event loops read before they look at their timers."""
    endings = Endings()
    async with serving(hello, limits=quick(head_s=0.4, idle_s=0.4), endings=endings) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.settimeout(30)
            if is_used:
                sock.send(GET % b"")
                await until(lambda: select.select([sock], [], [], 0)[0])
                sock.recv(65536)
            await until(lambda: server.num_connections == 1)
            await asyncio.sleep(0.15)
            sock.send(GET % b"late")
            time.sleep(1.2)  # noqa: ASYNC251 - the whole process
            await asyncio.sleep(0.1)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    assert not endings.num


async def test_a_hello_that_came_while_the_server_stood_still_is_heard(tls):
    endings = Endings()
    async with serving(hello, tls=tls[0], limits=quick(handshake_s=0.4), endings=endings) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        taken = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, taken.set)
        await taken.wait()
        opening = asyncio.ensure_future(
            asyncio.open_connection(sock=sock, ssl=tls[1], server_hostname="localhost")
        )
        for _ in range(3):
            await asyncio.sleep(0)
        time.sleep(0.8)  # noqa: ASYNC251 - the whole process
        reader, writer = await asyncio.wait_for(opening, 30)
        writer.write(GET % b"")
        assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 200")
        writer.close()
    assert not endings.num


def test_a_flood_is_counted_whole_and_said_in_part(caplog):
    endings = Endings("listener main", logging.INFO, now=lambda: 0.0)
    with caplog.at_level(logging.INFO, "nearfield.wire"):
        for _ in range(1000):
            endings.note(Cause.UNUSED, Stage.NEW)
    assert endings.num[Cause.UNUSED] == 1000
    assert len(caplog.records) == BURST


def test_probes_that_come_and_go_fill_no_log(caplog):
    endings = Endings("listener main", logging.INFO)
    with caplog.at_level(logging.INFO, "nearfield.wire"):
        endings.note(Cause.CLIENT_LEFT, Stage.NEW)
        endings.note(Cause.CLIENT_LEFT, Stage.HANDSHAKE)
        assert not caplog.records
        endings.note(Cause.CLIENT_LEFT, Stage.REQUEST)
    assert [each.getMessage() for each in caplog.records] == [
        "listener main: a connection ended with a request unanswered: client_left"
    ]
