"""Open files over a Unix socket: in order, in batches, to our own user, and an end that is always told."""

import asyncio
import contextlib
import os
import resource
import socket
import threading

import pytest

from wire.listener import descriptors
from wire.listener.descriptors import BATCH, close_all, connect_unix, listen_unix, receive_descriptors
from wire.serve import Limits, Server

GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"
WAIT_S = 10.0


@pytest.fixture
def numbered(tmp_path):
    """Files whose content is their number, open for reading."""
    fds = []
    for number in range(3 * BATCH + 1):
        path = tmp_path / f"{number}"
        path.write_text(str(number))
        fds.append(os.open(path, os.O_RDONLY))
    yield fds
    close_all(fds)


@contextlib.asynccontextmanager
async def serving(handler, path, **options):
    server = await Server.start_unix(handler, listen_unix(path), **options)
    try:
        yield server
    finally:
        await server.close()


def ask(path, target=b"", *, num_body=None):
    """(head, body, descriptors) of one answer; the connection stays with the caller."""
    connection = connect_unix(path, WAIT_S)
    connection.sendall(GET % target)
    data, fds = b"", []
    while b"\r\n\r\n" not in data:
        more, came = receive_descriptors(connection, 4096)
        data, fds = data + more, fds + came
    head, _, body = data.partition(b"\r\n\r\n")
    while num_body and len(body) < num_body:
        more, came = receive_descriptors(connection, 4096)
        body, fds = body + more, fds + came
        assert more
    return connection, head, body, fds


def handing(fds, body):
    async def handler(exchange):
        await exchange.start(200, (), length=len(body))
        await exchange.send_descriptors(body, fds)
        await exchange.finish()

    return handler


@pytest.mark.parametrize("num", [0, 1, BATCH, BATCH + 1, 3 * BATCH + 1])
async def test_every_descriptor_comes_in_order_with_the_body(tmp_path, numbered, num):
    """Several messages where one would be too large for the kernel; the body is whole."""
    body = os.urandom(1000)
    async with serving(handing(numbered[:num], body), tmp_path / "s"):
        connection, head, got, fds = await asyncio.to_thread(ask, tmp_path / "s", num_body=1000)

    assert head.startswith(b"HTTP/1.1 200")
    assert got == body
    assert [os.pread(fd, 10, 0) for fd in fds] == [str(n).encode() for n in range(num)]
    assert not any(os.get_inheritable(fd) for fd in fds)
    close_all(fds)
    connection.close()


async def test_a_slow_receiver_is_waited_for(tmp_path, numbered):
    """The socket's buffer is full before the descriptors go: they come after the bytes, none is lost."""
    first = bytes(4 * 1024 * 1024)

    async def handler(exchange):
        await exchange.start(200, (), length=len(first) + 10)
        await exchange.write(first)
        await exchange.send_descriptors(b"0123456789", numbered[:5])
        await exchange.finish()

    def slowly():
        connection = connect_unix(tmp_path / "s", WAIT_S)
        connection.sendall(GET % b"")
        data, fds = bytearray(), []
        while not data.endswith(b"0123456789"):
            more, came = receive_descriptors(connection, 64 * 1024)
            assert more
            data += more
            fds += came
        connection.close()
        return len(data), fds

    async with serving(handler, tmp_path / "s"):
        num_bytes, fds = await asyncio.to_thread(slowly)
    assert num_bytes > len(first)
    assert [os.pread(fd, 10, 0) for fd in fds] == [b"0", b"1", b"2", b"3", b"4"]
    close_all(fds)


async def test_the_end_of_a_connection_is_told_once_however_it_comes(tmp_path):
    """Closed by the peer, reset by us, or over already when asked: the act runs once and at once."""
    told = []
    ended = asyncio.Event()

    def act():
        told.append(len(told))
        ended.set()

    async def handler(exchange):
        exchange.at_end(act)
        await exchange.respond(200, (), b"ok")
        kept.append(exchange)

    kept = []
    async with serving(handler, tmp_path / "s") as server:
        connection, _, _, _ = await asyncio.to_thread(ask, tmp_path / "s", num_body=2)
        assert told == []
        connection.close()
        await asyncio.wait_for(ended.wait(), WAIT_S)
        kept[0].at_end(act)
        assert told == [0, 1]
        again, _, _, _ = await asyncio.to_thread(ask, tmp_path / "s", num_body=2)
        await server.close()
        assert told == [0, 1, 2]
        again.close()


async def test_a_silent_holder_is_closed_by_the_idle_limit(tmp_path):
    """The bound in time of whatever hangs on a connection."""
    ended = asyncio.Event()

    async def handler(exchange):
        exchange.at_end(ended.set)
        await exchange.respond(200, (), b"ok")

    async with serving(handler, tmp_path / "s", limits=Limits(idle_s=0.05)):
        connection, _, _, _ = await asyncio.to_thread(ask, tmp_path / "s", num_body=2)
        await asyncio.wait_for(ended.wait(), WAIT_S)
        assert await asyncio.to_thread(connection.recv, 1) == b""
        connection.close()


async def test_over_tcp_there_are_no_descriptors(tmp_path, numbered):
    """It is said before anything is sent."""
    seen = []

    async def handler(exchange):
        seen.append(exchange.carries_descriptors)
        await exchange.start(200, (), length=1)
        with pytest.raises(RuntimeError):
            await exchange.send_descriptors(b"x", numbered[:1])
        await exchange.finish(b"x")

    server = await Server.start(handler, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GET % b"")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()
    await server.close()
    assert seen == [False]


async def test_a_stranger_is_cut_before_a_byte_is_read(tmp_path, monkeypatch):
    """The kernel says who connected; the handler never hears of another user."""
    monkeypatch.setattr(descriptors, "peer_uid", lambda _: os.geteuid() + 1)
    called = []

    async def handler(exchange):
        called.append(exchange)

    async with serving(handler, tmp_path / "s") as server:
        connection = connect_unix(tmp_path / "s", WAIT_S)

        def talk():
            with contextlib.suppress(ConnectionError):
                connection.sendall(GET % b"")
            try:
                return connection.recv(100)
            except ConnectionError:
                return b""

        assert await asyncio.to_thread(talk) == b""
        connection.close()
        assert (called, server.num_connections) == ([], 0)


def test_too_few_bytes_for_the_batches_is_a_mistake_of_ours():
    """Descriptors travel with bytes."""

    async def send():
        await descriptors.send_descriptors(None, b"", [0], 1.0)

    with pytest.raises(ValueError, match="bytes"):
        asyncio.run(send())


def test_descriptors_that_do_not_fit_this_process_are_an_error_and_none_stays(numbered):
    """At the limit of open files the kernel drops some of them: told, and nothing is left open."""
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"x"], numbered[:20])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, to be compared
    highest = max(map(int, before))
    # The lowest limit under which a few more fit: every number up to the highest one is taken first.
    fillers = [os.dup(0) for _ in range(highest + 1 - len(before))]
    top = max([highest, *fillers])
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 4, hard))
    try:
        with pytest.raises(OSError, match="lost"):
            receive_descriptors(theirs, 100)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        close_all(fillers)
    assert set(os.listdir("/proc/self/fd")) <= before | {str(top + 1)}  # noqa: PTH208 - as above
    ours.close()
    theirs.close()


def test_a_long_path_and_a_socket_that_was_left(tmp_path):
    """Longer than an address may be; a second listener takes a dead one's name; the mode is the owner's alone."""
    path = tmp_path / ("x" * 150) / "s"
    path.parent.mkdir()
    listen_unix(path).close()
    listener = listen_unix(path)
    listener.listen()
    accepted = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept()[0]))
    thread.start()
    connect_unix(path, WAIT_S).close()
    thread.join()
    assert path.stat().st_mode & 0o777 == 0o600
    accepted[0].close()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        connect_unix(path, WAIT_S)
    with pytest.raises(FileNotFoundError):
        connect_unix(tmp_path / "none", WAIT_S)


def test_what_is_no_socket_is_not_replaced(tmp_path):
    """Somebody's file of that name stays."""
    (tmp_path / "s").write_text("mine")
    with pytest.raises(FileExistsError):
        listen_unix(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"
