"""The `[acme]` part of the TOML."""

import datetime as dt

import pytest

from deploy import fleet
from deploy.config.read import load
from deploy.faults import ConfigError
from deploy.roles.runner import runner
from deploy.trust import pki
from tests.deploy.test_dns import PART as DNS

PART = """
[acme]
directory = "https://ca.example/directory"
agree_to_terms = true
state = "acme"
certificates = "certificates"

[acme.orders.wild]
domains = ["*.api.nf.example", "api.nf.example"]
"""


@pytest.fixture(scope="module")
def fleet_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    return fleet.write(fleet.FleetPlan(folder), pki.ensure(folder / "tls", dt.datetime.now(dt.UTC)))


def test_an_order_is_read_and_the_role_made_of_it(fleet_text):
    path = fleet_text.with_name("acme.toml")
    path.write_text(fleet_text.read_text() + DNS + PART)
    config = load(path)

    assert config.acme.orders["wild"].domains == ("*.api.nf.example", "api.nf.example")
    assert config.acme.state == path.parent / "acme"
    assert callable(runner(config, "acme", None))
    with pytest.raises(ConfigError, match=r"no \[acme\]"):
        runner(load(fleet_text), "acme", None)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("https://ca", "http://ca", "https URL"),
        ("agree_to_terms = true", "agree_to_terms = false", "terms of service"),
        ('state = "acme"\n', "", "lacks `state`"),
        ("[acme.orders.wild]", '[acme.orders."../x"]', "becomes a folder"),
        ("*.api.nf.example", "api.*.nf.example", "no domain"),
        ("*.api.nf.example", "Api.nf.example", "no domain"),
        ('["*.api.nf.example", "api.nf.example"]', "[]", "1 to 100"),
        ("domains =", "names =", "acme.orders.wild.names"),
        ('[acme.orders.wild]\ndomains = ["*.api.nf.example", "api.nf.example"]', "", "no [acme.orders.NAME]"),
    ],
)
def test_a_mistake_is_named_with_the_next_step(fleet_text, old, new, words):
    assert old in PART
    path = fleet_text.with_name("bad.toml")
    path.write_text(fleet_text.read_text() + DNS + PART.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert words in str(caught.value)


def test_without_a_zone_there_is_nothing_to_prove_names_in(fleet_text):
    path = fleet_text.with_name("bare.toml")
    path.write_text(fleet_text.read_text() + PART)
    with pytest.raises(ConfigError, match=r"no \[dns\]"):
        load(path)
