"""A name that cannot be looked up any more takes nobody off the air, and one that moved is followed."""

import socket

import pytest

from tests.wire.test_dial import OK, sends, upstream
from wire.dial import DialError, Pool
from wire.upstreams import resolve


class Names:
    """A name server: `answers` is what it says, an OSError or addresses."""

    def __init__(self, *addresses):
        self.answers, self.num_asked = list(addresses), 0

    async def __call__(self, host, port):
        self.num_asked += 1
        if not self.answers:
            raise socket.gaierror(socket.EAI_AGAIN, "no name server")
        return self.answers


@pytest.fixture
def names(monkeypatch):
    found = Names("127.0.0.1")
    monkeypatch.setattr(resolve, "lookup", found)
    return found


async def get(pool):
    answer = await pool.request("GET", "/", (("connection", "close"),))
    return await answer.read()


async def test_the_last_addresses_are_used_while_the_name_server_is_gone(names, monkeypatch):
    monkeypatch.setattr(resolve, "FRESH_S", 0.0)
    async with upstream(sends(OK)) as direct:
        pool = Pool("region.test", direct.port)
        assert await get(pool) == b"ok"
        names.answers = []
        assert await get(pool) == b"ok"
        await pool.close()

    assert names.num_asked == 2


async def test_a_name_is_looked_up_once_for_all_connections_of_a_while(names):
    async with upstream(sends(OK)) as direct:
        pool = Pool("region.test", direct.port)
        for _ in range(3):
            assert await get(pool) == b"ok"
        await pool.close()

    assert names.num_asked == 1


async def test_a_name_whose_address_is_dead_is_looked_up_again(names):
    async with upstream(sends(OK)) as direct:
        pool = Pool("region.test", direct.port)
        names.answers = ["127.255.255.254"]
        with pytest.raises(DialError):
            await get(pool)
        names.answers = ["127.255.255.254", "127.0.0.1"]
        assert await get(pool) == b"ok"
        await pool.close()

    assert names.num_asked == 2


async def test_a_name_that_was_never_found_is_a_failed_connect(names):
    names.answers = []
    pool = Pool("region.test", 1)
    with pytest.raises(DialError) as error:
        await get(pool)
    await pool.close()

    assert (error.value.phase, error.value.timed_out) == ("connect", False)


async def test_an_emptied_record_is_no_address(monkeypatch):
    async def nobody(host, port):
        return []

    monkeypatch.setattr(resolve, "lookup", nobody)
    pool = Pool("region.test", 1)
    with pytest.raises(DialError):
        await get(pool)
    await pool.close()


async def test_the_systems_resolver_gives_each_address_once():
    assert "127.0.0.1" in await resolve.lookup("localhost", 80)
    assert [resolve.is_address(host) for host in ("127.0.0.1", "::1", "fe80::1%lo", "localhost")] == [
        True,
        True,
        True,
        False,
    ]
