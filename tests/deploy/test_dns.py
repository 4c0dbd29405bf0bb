"""The `[dns]` part of the TOML: what a name server is made of, and mistakes that say where they are."""

import datetime as dt
from ipaddress import ip_address

import pytest

from deploy import fleet
from deploy.config.dns import zone_settings
from deploy.config.read import load
from deploy.faults import ConfigError
from deploy.roles.runner import runner
from deploy.trust import pki

PART = """
[dns]
zone = "nf.example"
ttl_s = 20
records = ["www CNAME api"]

[dns.servers.ns1]
listen = ["192.0.2.53:53", "[2001:db8::53]:53"]
feed = "10.0.0.1:5300"

[dns.servers.ns1-b]
listen = ["192.0.2.53:53"]
published = false

[dns.pops.fra]
addresses = ["192.0.2.1"]
near = ["10.2.0.0/16"]
then = ["iad"]

[dns.pops.iad]
addresses = ["192.0.2.2"]
"""


@pytest.fixture(scope="module")
def fleet_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    return fleet.write(fleet.FleetPlan(folder), pki.ensure(folder / "tls", dt.datetime.now(dt.UTC)))


@pytest.fixture
def written(fleet_text):
    def write(old: str = "", new: str = ""):
        path = fleet_text.with_name("dns.toml")
        assert not old or old in PART
        path.write_text(fleet_text.read_text() + PART.replace(old, new))
        return path

    return write


def test_a_fleet_without_a_zone_has_no_name_server(fleet_text):
    with pytest.raises(ConfigError, match=r"no \[dns\]"):
        runner(load(fleet_text), "dns", None)


def test_name_servers_are_published_by_their_addresses(written):
    entry = load(written()).dns
    made = zone_settings(entry, serial=7)

    assert made.nameservers == {"ns1": (ip_address("192.0.2.53"), ip_address("2001:db8::53"))}
    assert [pop.name for pop in made.pops] == ["fra", "iad"]
    assert made.serial == 7


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("zone =", "zoen =", "dns.zoen"),
        ('zone = "nf.example"\n', "", "lacks `zone`"),
        ("ttl_s = 20", "ttl_s = 0", "1 to 300"),
        ("ttl_s = 20", "ttl_s = 3600", "1 to 300"),
        ("www CNAME api", "*.www CNAME api", "wildcard"),
        ('near = ["10.2.0.0/16"]', 'nearby = ["10.2.0.0/16"]', "Did you mean `near`?"),
        ("10.2.0.0/16", "10.2.0.1/16", "host bits"),
        ("10.2.0.0/16", "10.2.0.128/25", "finer than /24"),
        ('then = ["iad"]', 'then = ["sfo"]', "'sfo'"),
        ('addresses = ["192.0.2.1"]', 'addresses = ["pop.example"]', "pop.example"),
        ('addresses = ["192.0.2.1"]', "addresses = []", "addresses is empty"),
        ('["192.0.2.53:53", "[2001:db8::53]:53"]', '["0.0.0.0:53"]', "name each address"),
        ('["192.0.2.53:53", "[2001:db8::53]:53"]', '["ns1.example:53"]', "ADDRESS:PORT"),
        ("10.0.0.1:5300", "10.0.0.1", "ADDRESS:PORT"),
        ("[dns.pops.fra]", "[dns.pops.ns1]", None),
        ("[dns.servers.ns1]", "[dns.servers.api]", "used twice"),
    ],
)
def test_a_mistake_is_named_with_the_next_step(written, old, new, words):
    path = written(old, new)
    if words is None:
        assert load(path).dns is not None
        return
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert words in str(caught.value)
