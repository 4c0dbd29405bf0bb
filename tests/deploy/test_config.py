"""The fleet's TOML: what `up` writes is what every role reads; mistakes are named with a way out."""

import datetime as dt
import errno
import tomllib
from pathlib import Path

import pytest

from deploy import fleet
from deploy.config.document import pick
from deploy.config.read import load, parse
from deploy.doctor.examine import examine
from deploy.doctor.fleet import engines as _engines
from deploy.faults import ConfigError, NoConfig, NoPorts
from deploy.roles.runner import _key, _keys_of, _webhook, access_key, endpoint, homes_of, store_socket
from deploy.trust import credentials, pki, secrets
from storage.client.endpoint import SOCKET_NAME
from storage.notify.webhook import Webhook


@pytest.fixture
def written(tmp_path: Path) -> Path:
    authority = pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))
    return fleet.write(fleet.FleetPlan(tmp_path, profile="us-eu-jp"), authority)


def test_what_up_writes_is_what_every_role_reads(written):
    """One file, all addresses in it, no two roles on one port, and secrets only in files of mode 0600."""
    config = load(written)
    addresses = [e.listen for e in (*config.stores.values(), *config.nodes.values(), *config.edges.values())]
    addresses += [r.gateway for r in config.regions.values()]
    addresses += [a for e in config.edges.values() for a in (e.s3, e.admin, *e.pins.values())]
    addresses += [link.listen for link in config.wan.values()]

    assert len(set(addresses)) == len(addresses) == 3 + 3 + 1 + 3 + 5 + 4
    assert config.home == "iad"
    assert {r.region for r in config.nodes.values()} == {"iad", "fra", "nrt"}
    assert config.edges["local"].via == {r: config.wan[f"edge-{r}"].listen for r in ("fra", "nrt")}
    for secret in (written.parent / "secrets").iterdir():
        assert secret.stat().st_mode & 0o777 == 0o600


def test_no_secret_stands_in_the_file(written):
    """The file may be copied to every host: secrets are derived or kept beside it, never in it."""
    config = load(written)
    _, secret = access_key(config, fleet.USER_GRANTS)
    root = (written.parent / "secrets" / "root.key").read_text()

    assert secret not in written.read_text()
    assert root not in written.read_text()


def test_a_lan_has_no_simulated_links(tmp_path):
    """Without a profile nothing is delayed, and nothing says so."""
    authority = pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))
    config = load(fleet.write(fleet.FleetPlan(tmp_path), authority))

    assert not config.wan
    assert config.wan_profile is None
    assert not config.edges["local"].via


HOOK = '[[webhooks]]\nid = "ops"\nurl = "https://h.example/x"\nsecret = "secrets/ops"\n\n'


def test_webhooks_have_their_secret_in_a_file(written):
    """What a bucket's notification may name is in the configuration; what signs deliveries is not."""
    secret = written.parent / "secrets" / "ops"
    secrets.write_private(secret, b"sixteen bytes and more\n")
    text = written.read_text()
    written.write_text(HOOK + text)
    (entry,) = load(written).webhooks

    assert _webhook(entry) == Webhook("ops", "https://h.example/x", b"sixteen bytes and more")
    written.write_text(HOOK + HOOK + text)
    with pytest.raises(ConfigError, match="two"):
        load(written)
    secret.chmod(0o644)
    with pytest.raises(secrets.SecretsError, match="chmod 600"):
        _webhook(entry)
    secrets.write_private(secret, b"short")
    with pytest.raises(ConfigError, match="16 bytes"):
        _webhook(entry)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("memory_budget_bytes", "memory_bugdet_bytes", "Did you mean `memory_budget_bytes`?"),
        ('home = "iad"', 'home = "sfo"', "is not one of [regions]"),
        ('region = "fra"', 'region = "sfo"', "nodes.fra-0.region"),
        ("landing_pool_bytes = 67108864", "landing_pool_bytes = -1", "0 or more"),
        ("landing_pool_bytes = 67108864", 'landing_pool_bytes = "many"', "whole number"),
        ("landing_pool_bytes", "handoff = 1\nlanding_pool_bytes", "true or false"),
        ("[stores.iad]", "[stores.iad]\nsigv2 = 1", "true or false"),
        ("[platform]", "[platfrom]", "unknown key `platfrom`. Did you mean `platform`?"),
        ("generation", "generation", None),
    ],
)
def test_a_mistake_is_named_with_the_next_step(written, old, new, words):
    """Unknown keys, wrong types and dangling names are errors that say where and what instead."""
    text = written.read_text().replace(old, new)
    if words is None:
        assert parse(tomllib.loads(text), written).home == "iad"
        return

    with pytest.raises(ConfigError) as caught:
        parse(tomllib.loads(text), written)
    assert words in str(caught.value)


def test_a_missing_or_broken_file_says_so(tmp_path):
    """The two first mistakes of a new operator."""
    with pytest.raises(NoConfig, match="no platform was made"):
        load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    for text in ("platform = [", f"a = {'9' * 5000}", f"a = {'[' * 9000}{']' * 9000}"):
        broken.write_text(text)
        with pytest.raises(ConfigError, match="not TOML"):
            load(broken)


def test_credentials_that_are_damaged_are_told_with_the_way_to_new_ones(tmp_path):
    file = tmp_path / "credentials.toml"
    for text in ("base_url = [", "surprise = 1"):
        secrets.write_private(file, text.encode())
        with pytest.raises(secrets.SecretsError, match="Take it away: a start writes it anew"):
            credentials.load(tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "-0.1", "9" * 400])
def test_seconds_are_a_finite_number(written, value):
    """NaN is not below 0, and bounds nothing."""
    text = written.read_text().replace("idle_timeout_s = 300.0", f"idle_timeout_s = {value}")
    with pytest.raises(ConfigError, match=r"platform\.idle_timeout_s = .* must be a number, 0 or more"):
        parse(tomllib.loads(text), written)


def test_a_far_store_knows_the_home_of_what_users_push(written):
    """By the link that the region's own traffic takes; the home's store has its buckets itself."""
    config = load(written)
    link = config.wan["fra-home-store"].listen

    assert homes_of(config, "iad") == {}
    assert {bucket: found.url for bucket, found in homes_of(config, "fra").items()} == {
        "models": f"http://{link}"
    }
    assert homes_of(config, "fra")["models"].secret == access_key(config, fleet.SYSTEM_GRANTS)[1]
    abroad = f'store = "https://s3.example"\nstore_credentials = "{written}"'
    home = f'store = "{config.regions["iad"].store}"'
    text = "\n".join(line for line in written.read_text().splitlines() if not line.startswith("s3 = "))
    assert homes_of(parse(tomllib.loads(text.replace(home, abroad)), written), "fra") == {}


def test_an_edge_may_stand_before_the_store_of_any_region(written):
    text = written.read_text()
    parsed = parse(tomllib.loads(text.replace("\ns3 = ", '\ns3_region = "fra"\ns3 = ')), written)
    assert parsed.edges["local"].s3_region == "fra"
    with pytest.raises(ConfigError, match="'sfo', which is not one of"):
        parse(tomllib.loads(text.replace("\ns3 = ", '\ns3_region = "sfo"\ns3 = ')), written)
    fra = f'store = "{parsed.regions["fra"].store}"'
    foreign = text.replace(fra, f'store = "https://s3.example"\nstore_credentials = "{written}"')
    with pytest.raises(ConfigError, match="has another one"):
        parse(tomllib.loads(foreign.replace("\ns3 = ", '\ns3_region = "fra"\ns3 = ')), written)


GATE = """
[anycast.local]
ca = "tls/ca.pem"
drain = "drain"
"""


def test_an_anycast_gate_stands_before_the_edge_of_its_name(written):
    """With BIRD's socket, or as a process of ExaBGP that is told what to announce."""
    text = written.read_text().replace("[edges.local]", '[edges.local]\nanycast = "203.0.113.10:443"')
    gate = parse(tomllib.loads(text + GATE + 'bird = "/run/bird/bird.ctl"'), written).anycast["local"]

    assert gate.bird == Path("/run/bird/bird.ctl")
    assert gate.drain == written.parent / "drain"
    assert (
        parse(tomllib.loads(text + GATE + 'prefix = "203.0.113.10/32"'), written).anycast["local"].bird
        is None
    )


@pytest.mark.parametrize(
    ("with_address", "gate", "words"),
    [
        (True, GATE, "anycast.local.bird, its control socket"),
        (True, GATE + 'prefix = "203.0.113.10/8"', "has host bits set"),
        (True, GATE + 'bird = "b"\ntye = "x"', "Did you mean `tie`"),
        (True, GATE.replace("local", "other") + 'bird = "b"', "has no such address"),
        (False, GATE + 'bird = "b"', "edges.local.anycast"),
    ],
)
def test_a_mistake_in_a_gate_is_named_with_a_way_out(written, with_address, gate, words):
    text = written.read_text()
    if with_address:
        text = text.replace("[edges.local]", '[edges.local]\nanycast = "203.0.113.10:443"')
    with pytest.raises(ConfigError) as caught:
        parse(tomllib.loads(text + gate), written)

    assert words in str(caught.value)


def test_pick_takes_the_only_one_and_asks_when_there_are_several(written):
    """`nearfield run edge` needs no name when the file has one edge."""
    config = load(written)

    assert pick(config.edges, None, "edge")[0] == "local"
    assert pick(config.stores, "fra", "store")[0] == "fra"
    with pytest.raises(ConfigError, match="fra, iad, nrt"):
        pick(config.stores, None, "store")
    with pytest.raises(ConfigError, match="fra, iad, nrt"):
        pick(config.stores, "sfo", "store")


def test_free_ports_skips_a_preferred_port_that_is_taken():
    """Two platforms on one machine never fight over 8443."""
    import socket

    with socket.socket() as taken:
        taken.bind((fleet.LOOPBACK, 0))
        taken.listen()
        busy = taken.getsockname()[1]
        ports = fleet.free_ports(3, (busy,))

    assert busy not in ports
    assert len(set(ports)) == 3
    assert all(port in fleet.LASTING for port in ports), "no outgoing connection is given one of them later"


@pytest.mark.parametrize(
    ("number", "step"), [(errno.EADDRNOTAVAIL, "nearfield doctor"), (errno.EMFILE, "ulimit -n 4096")]
)
def test_a_machine_without_ports_is_told_so(monkeypatch, number, step):
    """A container may have `::1` alone; the platform ended in `coroutine raised StopIteration`."""

    def refused(_port):
        raise OSError(number, "in the system's words")

    monkeypatch.setattr(fleet, "_bound", refused)
    with pytest.raises(NoPorts, match=r"25 ports of 127.0.0.1.*: in the system's words") as found:
        fleet.free_ports(25)

    assert found.value.next_step.startswith(step)


def test_a_store_lets_strangers_in_only_if_it_is_told_to(written):
    text = written.read_text()
    before = {entry.anonymous for entry in load(written).stores.values()}
    written.write_text(
        text.replace("[stores.", "[stores.open]\nlisten='127.0.0.1:1'\nroot='o'\nanonymous=true\n[stores.", 1)
    )
    told = load(written).stores["open"].anonymous
    written.write_text(
        text.replace("[stores.", "[stores.open]\nlisten='127.0.0.1:1'\nroot='o'\nanonymous=1\n[stores.", 1)
    )

    assert (before, told) == ({False}, True)
    with pytest.raises(ConfigError, match=r"stores\.open\.anonymous"):
        load(written)


def test_a_key_has_the_user_that_is_named(written):
    first = load(written).access_keys[0]
    text = written.read_text().replace(f'id = "{first.id}"', f'id = "{first.id}"\nuser = "alice"')
    written.write_text(text + '[[access_keys]]\nid = "NFNOUSER"\ngrants = ["*::own"]\n')

    assert _key(load(written).access_keys[0]).user == "alice"
    with pytest.raises(ValueError, match="NFNOUSER"):
        _keys_of(written)


def test_the_access_key_of_unknown_grants_is_refused(written):
    """A configuration that lost its system key says which one to add."""
    with pytest.raises(ConfigError, match=r"access_keys"):
        access_key(load(written), ("nothing::read",))


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    """A root key copied with the wrong mode stops the host, with the command that mends it."""
    secrets.make_root_key(tmp_path)
    (tmp_path / "root.key").chmod(0o644)

    with pytest.raises(secrets.SecretsError, match="chmod 600"):
        secrets.root_key(tmp_path)


def foreign(written, *, credentials="theirs", mode=0o600):
    """The written fleet with the home region on an S3 of somebody else."""
    path = written.parent / credentials
    path.write_text("[default]\naws_access_key_id = AK\naws_secret_access_key = sk/with=%\n")
    path.chmod(mode)
    text = written.read_text()
    url = load(written).regions["iad"].store
    written.write_text(
        text.replace(f'store = "{url}"', f'store = "https://s3.example"\nstore_credentials = "{credentials}"')
    )
    return written


def test_a_store_of_somebody_else_is_reached_with_its_own_credentials(written):
    """Every role of that region, and every region that reads from home, is that one user there."""
    foreign(written)
    written.write_text(
        "\n".join(line for line in written.read_text().splitlines() if not line.startswith("s3 = "))
    )
    config = load(written)
    found = endpoint(config, "iad", fleet.NODE_GRANTS)

    assert (found.url, found.access_key, found.secret) == ("https://s3.example", "AK", "sk/with=%")
    assert endpoint(config, "fra", fleet.NODE_GRANTS).access_key != "AK"


def test_signed_requests_are_not_passed_on_to_a_store_that_would_refuse_them(written):
    with pytest.raises(ConfigError, match="Remove it"):
        load(foreign(written))


def test_credentials_that_others_can_read_are_refused(written):
    foreign(written, mode=0o644)
    written.write_text(
        "\n".join(line for line in written.read_text().splitlines() if not line.startswith("s3 = "))
    )
    with pytest.raises(secrets.SecretsError, match="chmod 600"):
        endpoint(load(written), "iad", fleet.NODE_GRANTS)


def test_two_regions_never_share_a_store(written):
    config = load(written)
    text = written.read_text().replace(config.regions["fra"].store, config.regions["nrt"].store)
    written.write_text(text)
    with pytest.raises(ConfigError, match="each needs its own"):
        load(written)


def test_a_node_asks_the_store_of_its_own_region_for_files(written):
    """By default the embedded store's socket; nobody where the store is not ours or the operator says no."""
    config = load(written)
    for name, node in config.nodes.items():
        assert store_socket(config, node) == config.stores[node.region].root / SOCKET_NAME, name
    refused = written.read_text().replace("landing_pool_bytes", "handoff = false\nlanding_pool_bytes")
    without = parse(tomllib.loads(refused), written)
    assert {store_socket(without, node) for node in without.nodes.values()} == {None}

    foreign(written)
    written.write_text(
        "\n".join(line for line in written.read_text().splitlines() if not line.startswith("s3 = "))
    )
    theirs = load(written)
    asked = {node.region: store_socket(theirs, node) for node in theirs.nodes.values()}
    assert asked["iad"] is None
    assert asked["fra"] == config.stores["fra"].root / SOCKET_NAME


def test_a_node_keeps_its_weights_where_the_file_says(written):
    """No folder by default; one that is named is taken from the file's own place."""
    assert {node.cache for node in load(written).nodes.values()} == {None}
    text = written.read_text().replace("landing_pool_bytes", 'cache = "kept"\nlanding_pool_bytes')

    assert {n.cache for n in parse(tomllib.loads(text), written).nodes.values()} == {written.parent / "kept"}


def test_no_engine_but_ours_unless_the_operator_defines_one(written):
    text = written.read_text()
    before = load(written).engines
    written.write_text(
        text + '\n[engines.vllm]\nargs = ["--seed", "1"]\n\n[engines.mine]\ncommand = ["s", "{socket}"]\n'
    )
    after = load(written).engines

    assert before == {}
    assert {name: each.kind for name, each in after.items()} == {"vllm": "vllm", "mine": "command"}
    assert after["vllm"].words[-2:] == ("--seed", "1")
    assert after["mine"].listens_at_socket


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('[engines.mine]\ncomand = ["s"]', "Did you mean `command`?"),
        ('[engines.mine]\ncommand = "s {port}"', "must be a list of strings"),
        ('[engines.mine]\ncommand = ["s"]', "where to listen"),
        ("[engines.nearfield]", "no name for an engine"),
        ("[engine.vllm]", "Did you mean `engines`?"),
    ],
)
def test_a_mistake_in_an_engine_is_named_with_a_way_out(written, section, said):
    written.write_text(f"{written.read_text()}\n{section}\n")

    with pytest.raises(ConfigError, match=said.replace("?", "[?]")):
        load(written)


def test_doctor_looks_for_the_programs_of_engines(written, tmp_path):
    command = '[engines.{}]\ncommand = ["{}", "{{port}}"]\n'
    text = command.format("here", "sh") + command.format("absent", "no-such-program")
    written.write_text(f"{written.read_text()}\n{text}")
    found = {each.name: each for each in _engines(load(written), written.parent)}

    assert (found["engine here"].well, found["engine absent"].well) == (True, False)
    assert "no-such-program" in found["engine absent"].seen
    assert "engine here" not in {each.name for each in examine(tmp_path / "none")}


PATIENT = """
[edges.local.patience]
total_s = 300
[edges.local.patience."acme/slow"]
first_byte_s = 60
"""


def test_an_edges_patience_is_its_own_or_a_models(written):
    """A model that names one phase has the edge's own figures for the others."""
    written.write_text(written.read_text() + PATIENT)
    found = load(written).edges["local"].patience

    assert found == {"": {"total_s": 300.0}, "acme/slow": {"total_s": 300.0, "first_byte_s": 60.0}}


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ("total = 3", "none of connect_s"),
        ("total_s = 0", "above 0"),
        ("[edges.local.patience.slow]", "org/name"),
    ],
)
def test_patience_that_means_nothing_is_named(written, odd, said):
    written.write_text(f"{written.read_text()}\n[edges.local.patience]\n{odd}\n")
    with pytest.raises(ConfigError, match=said):
        load(written)


@pytest.mark.parametrize("num", [0, 65])
def test_an_edge_has_from_one_to_64_processes(written, num):
    text = written.read_text().replace("[edges.local]\n", f"[edges.local]\nworkers = {num}\n")
    with pytest.raises(ConfigError, match=r"edges.local.workers"):
        parse(tomllib.loads(text), written)
