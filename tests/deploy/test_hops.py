"""Mutual TLS between edge and region: only hosts with the fleet's root key speak to each other, for a day at a time."""

import asyncio
import datetime as dt
import ssl
import time

import pytest

from deploy.config.read import load
from deploy.faults import ConfigError
from deploy.trust.hops import LIFETIME, Hops, authority_key
from tests.wire.test_dial import fetch, ok
from tests.wire.test_serve import serving
from tests.wire.tls_server import saying_ok, status_of
from wire.dial import DialError, Pool
from wire.secured import secure
from wire.secured.tls import hop_name

ROOT, OTHER = b"r" * 32, b"o" * 32


def gateway(hops):
    return saying_ok(hops.server)


async def asked(port, tls, region="iad"):
    """The status an edge with this context gets of `region`. Raises DialError."""
    return await status_of(port, tls, hop_name("region", region))


async def test_hosts_of_one_fleet_know_each_other():
    """Each made its certificate by itself, from the root key alone."""
    async with gateway(Hops(ROOT, "region", "iad")) as port:
        assert await asked(port, Hops(ROOT, "edge", "local").client) == 200


async def test_another_fleet_is_refused():
    """By the edge, which sees a foreign gateway."""
    async with gateway(Hops(ROOT, "region", "iad")) as port:
        with pytest.raises(DialError, match=r"connect: .*verify failed"):
            await asked(port, Hops(OTHER, "edge", "local").client)


async def test_a_gateway_refuses_who_shows_nothing_or_another_fleets():
    """Clients that do not check the gateway still get nothing from it."""
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    foreign = Hops(OTHER, "edge", "local").client
    foreign.check_hostname, foreign.verify_mode = False, ssl.CERT_NONE
    async with gateway(Hops(ROOT, "region", "iad")) as port:
        for context in (bare, foreign):
            with pytest.raises(DialError):
                await asked(port, context)


async def test_a_region_cannot_pass_for_another():
    """The name in the certificate is checked, not only who signed it."""
    async with gateway(Hops(ROOT, "region", "fra")) as port:
        with pytest.raises(DialError, match=r"(?i)hostname mismatch"):
            await asked(port, Hops(ROOT, "edge", "local").client)


async def test_a_certificate_is_good_for_a_day():
    """One that was made two days ago opens nothing."""
    edge = Hops(ROOT, "edge", "local")
    edge.renew(dt.datetime.now(dt.UTC) - dt.timedelta(days=2))
    async with gateway(Hops(ROOT, "region", "iad")) as port:
        with pytest.raises(DialError):
            await asked(port, edge.client)


async def test_a_session_outlives_no_certificate(monkeypatch):
    """What was shown when a session began is looked at again when it is resumed, by both sides."""
    async with serving(ok, tls=Hops(ROOT, "region", "iad").server) as server:
        name = hop_name("region", "iad")
        pool = Pool("127.0.0.1", server.port, tls=Hops(ROOT, "edge", "local").client, server_name=name)
        for _ in range(2):
            assert await fetch(pool) == (200, b"ok")
            pool.abort()
        monkeypatch.setattr(secure, "time", Clock(time.time() + LIFETIME.total_seconds() + 60))
        with pytest.raises(DialError, match="resumed has ended"):
            await fetch(pool)
        await pool.close()


class Clock:
    """`time` at another moment."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, now):
        self._now = now

    def time(self):
        return self._now


async def test_certificates_rotate_under_traffic():
    """Both sides renew by themselves: no request fails, and later connections see other certificates."""
    region, edge = Hops(ROOT, "region", "iad"), Hops(ROOT, "edge", "local")
    keeping = [asyncio.create_task(hops.keep(dt.timedelta(seconds=0.05))) for hops in (region, edge)]
    serials = set()
    async with gateway(region) as port:
        while len(serials) < 3:
            assert await asked(port, edge.client) == 200
            serials.add(await _serial(port, edge.client))
    for task in keeping:
        task.cancel()


async def _serial(port, context):
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=hop_name("region", "iad")
    )
    serial = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return serial


def test_the_authority_follows_from_the_root_key_alone():
    """The same on every host, another for another fleet."""
    mine = authority_key(ROOT).private_numbers()
    assert mine == authority_key(ROOT).private_numbers()
    assert mine != authority_key(OTHER).private_numbers()


TOML = """
[platform]
home = "iad"
secrets = "secrets"
{line}

[regions.iad]
gateway = "{gateway}"
store = "http://127.0.0.1:1"
nodes = []
public_key = "00"
"""


@pytest.mark.parametrize(
    ("gateway", "line", "wanted"),
    [
        ("127.0.0.1:1", "", False),
        ("[::1]:1", "", False),
        ("localhost:1", "", False),
        ("10.1.0.2:1", "", True),
        ("iad.internal:1", "", True),
        ("10.1.0.2:1", "mutual_tls = false", False),
        ("127.0.0.1:1", "mutual_tls = true", True),
    ],
)
def test_what_leaves_the_machine_is_protected_unless_told(tmp_path, gateway, line, wanted):
    """A fleet on one machine speaks plainly over its loopback."""
    path = tmp_path / "nearfield.toml"
    path.write_text(TOML.format(gateway=gateway, line=line))
    assert load(path).mutual_tls is wanted


def test_a_wrong_value_is_named(tmp_path):
    """With the key that it stands under."""
    path = tmp_path / "nearfield.toml"
    path.write_text(TOML.format(gateway="127.0.0.1:1", line='mutual_tls = "yes"'))
    with pytest.raises(ConfigError, match=r"platform\.mutual_tls"):
        load(path)
