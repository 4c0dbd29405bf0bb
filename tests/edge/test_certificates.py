"""A listener's certificates: chosen by name, read again while it serves, refused one by one."""

import datetime as dt
import shutil
import ssl

import pytest

from edge.certificates import BadPairError, Certificates, Pair, find, index, read
from tests.wire.certs import make_certificate
from tests.wire.tls_server import saying_ok, status_of
from wire.dial import DialError, Pool
from wire.secured.tls import client_context

DAY = dt.timedelta(days=1)


def put(folder, domain, *names, days=1.0):
    """A pair in the folder as an ACME client leaves it; returns the authority to trust."""
    home = folder / domain
    made = folder.parent / f"made-{domain}-{days}"
    made.mkdir(exist_ok=True)
    chain, key, authority = make_certificate(made, names or (domain,), days=days)
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(key, home / "key.pem")
    shutil.copy(chain, home / "chain.pem")
    return authority


@pytest.fixture
def shown(tmp_path, certificate):
    """The certificates of an edge with an empty folder, and the folder."""
    chain, key, _ = certificate
    folder = tmp_path / "certificates"
    folder.mkdir()
    return Certificates(Pair(chain, key), folder), folder


def listening(certificates):
    return saying_ok(certificates.context)


async def status(port, name, authority):
    """What a client that trusts `authority` alone gets when it asks for `name`. Raises DialError."""
    return await status_of(port, client_context(authority), name)


async def test_each_name_gets_its_certificate(shown, certificate):
    """Own, wildcard and default, each checked by the client; an address asks for no name and gets the default."""
    certificates, folder = shown
    own = put(folder, "chat.acme.example")
    wild = put(folder, "_.apps.example", "*.apps.example")
    certificates.refresh()
    async with listening(certificates) as port:
        assert await status(port, "chat.acme.example", own) == 200
        assert await status(port, "one.apps.example", wild) == 200
        assert await status(port, "localhost", certificate[2]) == 200
        assert await status(port, "127.0.0.1", certificate[2]) == 200


@pytest.mark.parametrize(
    "name", ["other.example", "apps.example", "a.b.apps.example", "xn--bcher-kva.example"]
)
async def test_a_name_that_nobody_put_there_is_no_mystery(shown, certificate, name):
    """Its client is shown the default certificate, and says that it is another name's."""
    certificates, folder = shown
    put(folder, "_.apps.example", "*.apps.example")
    certificates.refresh()
    async with listening(certificates) as port:
        with pytest.raises(DialError, match=f"not valid for '{name}'"):
            await status(port, name, certificate[2])


async def test_a_new_certificate_is_shown_without_a_restart(shown):
    """Connections that stand go on; the next handshake sees the new one, also of the default pair."""
    certificates, folder = shown
    first = put(folder, "a.example", days=1)
    certificates.refresh()
    async with listening(certificates) as port:
        pool = Pool("127.0.0.1", port, tls=client_context(first), server_name="a.example")
        await (await pool.request("GET", "/")).read()
        second = put(folder, "a.example", days=2)
        certificates.refresh()
        await (await pool.request("GET", "/")).read()  # the connection that was made before

        assert await status(port, "a.example", second) == 200
        with pytest.raises(DialError):
            await status(port, "a.example", first)
        shutil.rmtree(folder / "a.example")
        certificates.refresh()
        with pytest.raises(DialError):
            await status(port, "a.example", second)
        await pool.close()


async def test_the_running_edge_looks_by_itself(world, tmp_path):
    """Put into the folder that the edge was told of, it is served soon; status says until when."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    w = await world(certificates=folder)
    authority = put(folder, "later.example")
    seen = await w.until(lambda status: "later.example" in status["certificates"])
    port = w.pools[""].port

    assert dt.datetime.fromisoformat(seen["certificates"]["later.example"]) > dt.datetime.now(dt.UTC)
    pool = Pool("127.0.0.1", port, tls=client_context(authority), server_name="later.example")
    answer = await pool.request("GET", "/healthz")
    assert answer.head.status == 200
    await pool.close()


def garbage(home):
    (home / "chain.pem").write_text("not a certificate")


def empty(home):
    (home / "chain.pem").write_bytes(b"")


def of_another(home):
    made = home.parent.parent / "another"
    made.mkdir()
    shutil.copy(make_certificate(made)[1], home / "key.pem")


def readable(home):
    (home / "key.pem").chmod(0o644)


def huge(home):
    (home / "chain.pem").write_bytes(b"#" * (1 << 20))


def half(home):
    chain = (home / "chain.pem").read_bytes()
    (home / "chain.pem").write_bytes(chain[: len(chain) // 2])


@pytest.mark.parametrize(
    "spoil", [garbage, empty, of_another, readable, huge, half], ids=lambda f: f.__name__
)
async def test_a_bad_pair_changes_nothing(shown, spoil, caplog):
    """What was there before is shown, the log says why once, and others are taken meanwhile."""
    certificates, folder = shown
    before = put(folder, "a.example")
    certificates.refresh()
    spoil(folder / "a.example")
    other = put(folder, "b.example")
    certificates.refresh()
    certificates.refresh()
    async with listening(certificates) as port:
        assert await status(port, "a.example", before) == 200
        assert await status(port, "b.example", other) == 200
    assert len([r for r in caplog.records if "was not taken" in r.message]) == 1


def test_without_a_default_nothing_is_served(tmp_path):
    """The message names the files."""
    with pytest.raises(BadPairError, match=r"none\.pem"):
        Certificates(Pair(tmp_path / "none.pem", tmp_path / "none.key"))


def test_of_several_the_valid_and_newest_is_shown(tmp_path):
    """A renewed certificate under another folder name wins; one that ended loses to any that has not."""
    folder = tmp_path / "c"
    put(folder, "old", "a.example", days=-0.01)
    put(folder, "new", "a.example", "b.example", days=3)
    old, new = (read(Pair(folder / name / "chain.pem", folder / name / "key.pem")) for name in ("old", "new"))
    now = dt.datetime.now(dt.UTC)

    assert index([new, old], now)["a.example"] is new
    assert index([old], now)["a.example"] is old  # better than a handshake that fails without a reason
    assert find(index([new], now), "B.Example.") is new
    assert find(index([new], now), "c.example") is None


def test_status_names_the_soonest(tmp_path, certificate):
    """So that an operator sees a renewal that does not come."""
    folder = tmp_path / "c"
    for number in range(20):
        put(folder, f"n{number}.example", days=20 - number)
    shown = Certificates(Pair(certificate[0], certificate[1]), folder).expiries()

    assert len(shown) == 16
    assert list(shown)[:2] == ["localhost", "n19.example"]


def test_contexts_are_strict(shown):
    """TLS 1.2 and up, no renegotiation; the listener's own context is one of ours."""
    context = shown[0].context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
