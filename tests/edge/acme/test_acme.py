"""Certificates through our own zone: a real name server, a strict CA that asks it, and what is on disk afterwards."""

import asyncio
import datetime as dt
import json
import socket
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from edge.acme import due, run, talk
from edge.acme.faults import AcmeError, refusal, wait_s
from edge.acme.jose import AccountKey, KeyFileError
from edge.acme.run import AcmeSettings, Keeper
from edge.acme.shelf import Held, Shelf, ShelfError, Trouble
from edge.dns.run import DnsSettings
from edge.dns.run import run as run_dns
from tests.edge.acme.fake_ca import FakeCa, Problem
from tests.edge.dns.zones import APEX, settings

KEY = b"k" * 32
WAIT_S = 60.0
ORDERS = {"wild": (f"*.api.{APEX}", f"api.{APEX}")}
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Place:
    """A name server, a CA, and a folder to issue into."""

    def __init__(self, folder, ca, dns_port, feed):
        self.folder, self.ca, self.dns, self._feed = folder, ca, ("127.0.0.1", dns_port), feed
        self.settings = AcmeSettings(
            directory=f"{ca.url}/directory",
            contact=("mailto:ops@nf.example",),
            agreed=True,
            ca=ca.ca,
            state=folder / "state",
            certificates=folder / "certificates",
            orders=ORDERS,
            zone=APEX,
            feeds=(feed,),
            servers=(self.dns,),
            key=KEY,
            look_s=0.05,
        )

    def keeper(self, **changes) -> tuple[Keeper, Shelf]:
        values = {name: getattr(self.settings, name) for name in self.settings.__slots__} | changes
        made = AcmeSettings(**values)
        shelf = Shelf(made.state, made.certificates)
        return Keeper(made, shelf, shelf.open()), shelf

    async def look(self, **changes) -> int:
        keeper, shelf = self.keeper(**changes)
        try:
            return await keeper.look()
        finally:
            shelf.close()

    def leaf(self, name="wild") -> x509.Certificate:
        return x509.load_pem_x509_certificate(
            (self.folder / "certificates" / name / "chain.pem").read_bytes()
        )

    def trouble(self, name="wild") -> Trouble:
        return Shelf(self.settings.state, self.settings.certificates).trouble(name)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
async def place(tmp_path, certificate, monkeypatch):
    monkeypatch.setattr(talk, "POLL_S", 0.01)
    feed, ready, stop = (
        ("127.0.0.1", free_port()),
        asyncio.get_running_loop().create_future(),
        asyncio.Event(),
    )
    server = DnsSettings(settings(), (("127.0.0.1", 0),), feed, 1e6, KEY)
    serving = asyncio.ensure_future(run_dns(server, ready.set_result, stop))
    await asyncio.wait([ready, serving], return_when=asyncio.FIRST_COMPLETED)
    port = ready.result()
    ca = await FakeCa(certificate, ("127.0.0.1", port)).start()
    yield Place(tmp_path, ca, port, feed)
    await ca.stop()
    stop.set()
    await serving


async def test_a_wildcard_and_its_parent_are_proven_and_issued(place):
    """Two values of one TXT name; the key on disk is the certificate's; nothing is asked for again."""
    assert await place.look() == 1

    leaf, folder = place.leaf(), place.folder / "certificates" / "wild"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    assert set(names.get_values_for_type(x509.DNSName)) == set(ORDERS["wild"])
    assert key.public_key() == leaf.public_key()
    for path in (folder / "key.pem", place.folder / "state" / "account.pem"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not list(place.folder.rglob("*.new"))
    assert place.ca.contacts == ["mailto:ops@nf.example"]
    num_asked = len(place.ca.asked)
    assert await place.look() == 0
    assert len(place.ca.asked) == num_asked


async def test_the_tokens_are_gone_afterwards(place):
    await place.look()
    async with asyncio.timeout(WAIT_S):
        while await place.ca._txt(f"_acme-challenge.api.{APEX}"):  # noqa: ASYNC110 - told by datagram
            await asyncio.sleep(0.02)


async def test_a_custom_domain_is_proven_by_its_owners_alias(place):
    """The customer's zone has one CNAME into ours, for ever."""
    domain = "chat.customer.example"
    place.ca.aliases = {f"_acme-challenge.{domain}": f"_acme-challenge.{domain}.{APEX}"}

    assert await place.look(orders={"customer": (domain,)}) == 1
    assert place.leaf("customer")


async def test_without_the_alias_the_refusal_is_said_and_the_next_try_is_later(place):
    before = time.time()
    assert await place.look(orders={"customer": ("chat.customer.example",)}) == 0

    trouble = place.trouble("customer")
    assert trouble.num_failed == 1
    assert trouble.until >= before + due.FIRST_WAIT_S / 2
    assert "unauthorized" in trouble.said
    assert "chat.customer.example" in trouble.said
    num_asked = len(place.ca.asked)
    assert await place.look(orders={"customer": ("chat.customer.example",)}) == 0  # after a restart too
    assert len(place.ca.asked) == num_asked


async def test_a_nonce_that_is_not_taken_is_replaced(place):
    place.ca.problems = [
        (kind, Problem(400, "badNonce", "again")) for kind in ("newOrder", "finalize", "finalize")
    ]

    assert await place.look() == 1


async def test_a_rate_limit_is_honoured_for_every_certificate(place):
    place.ca.problems = [("newOrder", Problem(429, "rateLimited", "too many", (("retry-after", "7200"),)))]
    orders = {"one": (f"one.{APEX}",), "two": (f"two.{APEX}",)}

    assert await place.look(orders=orders) == 0
    assert place.trouble("one").until >= time.time() + 7000
    assert place.ca.asked.count(("POST", "newOrder")) == 1


@pytest.mark.parametrize(
    "kind", ["directory", "newAccount", "authz", "challenge", "order", "finalize", "certificate"]
)
async def test_a_ca_that_fails_at_any_step_leaves_what_was_there(place, kind):
    assert await place.look() == 1
    before = place.leaf()
    place.ca.problems = [(kind, Problem(500, "serverInternal", f"at {kind}"))]
    more = {"wild": (*ORDERS["wild"], f"more.{APEX}")}

    assert await place.look(orders=more) == 0
    assert place.leaf() == before
    assert f"at {kind}" in place.trouble().said
    (place.folder / "state" / "wild.json").unlink()
    assert await place.look(orders=more) == 1
    assert place.leaf() != before
    assert place.trouble() == Trouble()


async def test_the_account_is_made_once(place):
    await place.look()
    await place.look(orders={"other": (f"other.{APEX}",)})

    assert len(place.ca._accounts) == 1


async def test_a_certificate_is_renewed_while_it_is_good(place):
    """By the role itself: it looks again and again, and a short life is over by two thirds soon."""
    place.ca._life = dt.timedelta(seconds=3)
    ready, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
    running = asyncio.ensure_future(run.run(place.settings, ready.set_result, stop))
    async with asyncio.timeout(WAIT_S):
        while len(place.ca.certificates) < 2:  # noqa: ASYNC110 - by its own clock
            await asyncio.sleep(0.02)
    stop.set()
    await running
    assert place.leaf().not_valid_after_utc - place.leaf().not_valid_before_utc == dt.timedelta(seconds=3)


async def test_two_processes_do_not_issue_at_once(place):
    _, shelf = place.keeper()
    with pytest.raises(ShelfError, match="in use"):
        place.keeper()
    shelf.close()
    (place.folder / "state" / "account.pem").chmod(0o644)
    with pytest.raises(ShelfError, match="chmod 600"):
        place.keeper()


async def test_a_name_server_that_is_gone_is_an_error_that_says_so(place, monkeypatch):
    from edge.acme import prover

    monkeypatch.setattr(prover, "DEADLINE_S", 0.3)
    monkeypatch.setattr(prover, "ASK_S", 0.05)
    assert await place.look(servers=(("127.0.0.1", free_port()),)) == 0
    assert "not every name server" in place.trouble().said


HELD = Held(NOW, NOW + dt.timedelta(days=90), frozenset({"a"}))


@pytest.mark.parametrize(
    ("held", "domains", "days", "is_due"),
    [
        (None, {"a"}, 0, True),
        (HELD, {"a"}, 59, False),
        (HELD, {"a"}, 60, True),
        (HELD, {"a"}, 100, True),
        (HELD, {"a", "b"}, 1, True),
        (HELD, set(), 1, False),
    ],
)
def test_a_certificate_is_due_at_two_thirds_of_its_life_or_when_a_name_is_missing(
    held, domains, days, is_due
):
    assert due.is_due(held, frozenset(domains), NOW + dt.timedelta(days=days)) is is_due


def test_failures_wait_longer_each_time_and_never_less_than_the_ca_says():
    trouble, waits = Trouble(), []
    for _ in range(20):
        trouble = due.after_failure(trouble, AcmeError("dns", "x"), 0.0, 1.0)
        waits.append(trouble.until)

    assert waits == sorted(waits)
    assert waits[:3] == [60.0, 120.0, 240.0]
    assert waits[-1] == due.MAX_WAIT_S
    assert due.after_failure(Trouble(), AcmeError("dns", "x"), 0.0, 0.0).until == 30.0
    limited = AcmeError("rateLimited", "x", 99_999.0)
    assert due.after_failure(Trouble(), limited, 0.0, 1.0).until == 99_999.0
    assert due.after_failure(Trouble(), AcmeError("rateLimited", "x"), 0.0, 1.0).until == due.RATE_LIMITED_S


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        ("999999999", 86_400.0),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
def test_when_to_ask_again_is_read_in_both_forms(value, seconds):
    assert wait_s(value, NOW) == seconds


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"detail": 5, "subproblems": [3, {"detail": "x"}]}'])
def test_any_refusal_is_an_error_with_a_kind(body):
    assert refusal(503, "1", body, NOW).kind == "http 503"


def test_an_account_key_comes_back_from_its_file_as_it_was():
    key = AccountKey.fresh()
    again = AccountKey.from_pem(key.pem())
    assert again.thumbprint == key.thumbprint
    assert json.loads(key.sign("https://x/", "n", None, "https://x/1"))["payload"] == ""
    for bad in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(KeyFileError):
            AccountKey.from_pem(bad)
