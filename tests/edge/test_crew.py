"""An edge of several processes: one address, one quota, one page of figures; one dies and the others serve."""

import asyncio
import datetime as dt
import hashlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from cryptography import x509

from deploy import fleet
from deploy.forks.link import ForkLink
from deploy.forks.role import RoleProcess
from deploy.roles.crew import CALM_S, Crew
from deploy.trust import pki, secrets
from edge.admission.account import OverQuota
from edge.admission.ledger import NUM_SETS, NUM_WAYS, RUNNING, SharedLedger
from edge.admission.quota import Quotas
from edge.crew.adding import added
from edge.crew.place import bind
from regions.map.policy import KeyGrant, Quota
from tests.edge import world as world_module
from tests.edge.test_quota import ask, end
from tests.edge.world import ADMIN, BODY, OTHER, POLICY_KEYS, USER, FakeRegion, free_port, whole
from wire.dial import DialError, Pool
from wire.secured.tls import client_context

KEY = hashlib.sha256(b"k").hexdigest()


def now():
    return asyncio.get_running_loop().time()


# what is shared -----------------------------------------------------------------------------------------------


class Two:
    """The ledgers of two processes in one: what a fork would share lies in one memory here too."""

    def __init__(self):
        self.first = SharedLedger(2)
        self.second = SharedLedger.__new__(SharedLedger)
        self.second.__dict__ |= self.first.__dict__
        self.quotas = Quotas(ledger=self.first), Quotas(ledger=self.second.at(1))


async def test_two_processes_have_one_quota():
    one, two = Two().quotas
    quota = Quota(requests_per_min=60, tokens_per_min=1000)
    for number in range(60):
        use = await (one, two)[number % 2].enter(KEY, quota, ask(prompt=10), now())
        end(use)
    for quotas in (one, two):
        assert await over(quotas, quota) == "requests"


async def over(quotas, quota):
    """Of what there is too little; a few requests flow in meanwhile."""
    for _ in range(30):
        try:
            end(await quotas.enter(KEY, quota, ask(prompt=10), now()))
        except OverQuota as refusal:
            return refusal.kind
    return "nothing"


async def test_a_place_that_another_process_leaves_is_found():
    one, two = Two().quotas
    quota = Quota(streams=2)
    uses = [await each.enter(KEY, quota, ask(), now()) for each in (one, two)]
    waiting = asyncio.ensure_future(two.enter(KEY, quota, ask(), now()))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    end(uses[0])
    end(await asyncio.wait_for(waiting, 30))
    end(uses[1])


async def test_what_a_dead_process_had_running_is_taken_back():
    both = Two()
    one, two = both.quotas
    quota = Quota(streams=1)
    await two.enter(KEY, quota, ask(), now())
    both.first.clear(1)
    end(await one.enter(KEY, quota, ask(), now()))


def test_a_full_set_forgets_who_is_idle_and_never_who_is_busy():
    ledger = SharedLedger(1)
    digests = [f"{number * NUM_SETS:08x}" + "0" * 55 + "1" for number in range(1, 4 * NUM_WAYS)]
    with ledger.held(digests[0]) as cells:
        cells[RUNNING] = 1.0
    for at, digest in enumerate(digests[1:], 1):
        with ledger.held(digest) as cells:
            assert cells[RUNNING] == 0
            cells[1] = at  # last used then
    with ledger.held(digests[0]) as cells:
        assert cells[RUNNING] == 1.0
    with ledger.held(digests[-1]) as cells:
        assert cells[1] == len(digests) - 1


def test_pages_add_up():
    first = b'# HELP a_total A.\n# TYPE a_total counter\na_total{x="y z"} 1\n'
    seen = b"# HELP nearfield_edge_policy_seq P.\nnearfield_edge_policy_seq %d\n"
    second = b'# HELP a_total A.\n# TYPE a_total counter\na_total{x="y z"} 2\na_total{x="w"} 5\n'
    assert added([first + seen % 7, second + seen % 6]).decode().splitlines() == [
        "# HELP a_total A.",
        "# TYPE a_total counter",
        'a_total{x="y z"} 3',
        'a_total{x="w"} 5',
        "# HELP nearfield_edge_policy_seq P.",
        "nearfield_edge_policy_seq 6",
    ]
    assert added([first]) is first


def test_an_address_that_somebody_has_is_not_shared_with_a_stranger():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError):
        bind("127.0.0.1", taken.getsockname()[1], 2)
    socks = bind("127.0.0.1", 0, 3)
    assert len({sock.getsockname() for sock in socks}) == 1
    for sock in socks:
        sock.close()


# the processes ------------------------------------------------------------------------------------------------


class Crewed:
    """The edge's role as it is run, with two workers, and a region of ours behind it."""

    def __init__(self, folder: Path, region: FakeRegion) -> None:
        self.region = region
        self.ports = {name: free_port() for name in ("main", "admin")}
        self.authority = authority = pki.ensure(folder / "tls", dt.datetime.now(dt.UTC))
        self.tls = client_context(authority.ca)
        key = region.key.public_key().public_bytes_raw().hex()
        lines = ["[platform]", 'home = "iad"', 'secrets = "secrets"']
        lines += [
            "[[access_keys]]",
            f'id = "{secrets.new_access_key_id()}"',
            f"grants = {list(fleet.SYSTEM_GRANTS)}",
        ]
        lines += ["[regions.iad]", f'gateway = "127.0.0.1:{region.port}"', 'store = "http://127.0.0.1:9"']
        lines += ['nodes = ["127.0.0.1:9"]', f'public_key = "{key}"', "[edges.local]", "workers = 2"]
        lines += [f'listen = "127.0.0.1:{self.ports["main"]}"', f'admin = "127.0.0.1:{self.ports["admin"]}"']
        pair = [f'cert = "{authority.cert}"', f'key = "{authority.key}"']
        lines += [*pair, 'state = "edge"', "[edges.far]", 'listen = "127.0.0.1:9"', *pair, 'state = "far"']
        config = folder / "nearfield.toml"
        config.write_text("\n".join(lines) + "\n")
        self.forks = ForkLink(folder / "forks.log")
        self.process = RoleProcess(self.forks, "edge", "local", config, folder / "edge.log")

    def pool(self, name="main"):
        return Pool("127.0.0.1", self.ports[name], tls=self.tls)

    async def ask(self, pool=None, key=USER):
        own = pool or self.pool()
        headers = (("authorization", f"Bearer {key}"), ("content-type", "application/json"))
        try:
            return await whole(await own.request("POST", "/v1/chat/completions", headers, BODY))
        finally:
            if pool is None:
                await own.close()

    async def figures(self):
        """/metrics, by name: the sum over its series."""
        pool, found = self.pool("admin"), {}
        headers = (("authorization", f"Bearer {ADMIN}"),)
        status, _, page = await whole(await pool.request("GET", "/nearfield/metrics", headers))
        await pool.close()
        assert status == 200
        for line in page.decode().splitlines():
            if not line.startswith("#"):
                name = line.partition("{")[0].partition(" ")[0]
                found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
        return found

    def workers(self):
        """Their process ids."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    async def until(self, fact):
        async with asyncio.timeout(60):
            while True:
                try:
                    if await fact():
                        return
                except DialError:
                    pass
                await asyncio.sleep(0.05)


@pytest.fixture
async def crewed(tmp_path, monkeypatch):
    token = secrets.hop_token(secrets.make_root_key(tmp_path / "secrets"))
    monkeypatch.setattr(world_module, "HOP", token)
    region = FakeRegion("iad", home=True)
    digest = hashlib.sha256(USER.encode()).hexdigest()
    region.keys = {
        **POLICY_KEYS,
        digest: KeyGrant("acme", frozenset({"infer"}), quota=Quota(requests_per_min=10)),
    }
    region.keys |= {hashlib.sha256(OTHER.encode()).hexdigest(): KeyGrant("other", frozenset({"infer"}))}
    await region.start()
    edge = Crewed(tmp_path, region)
    await edge.process.start()
    try:
        await edge.process.wait_ready(60)
        yield edge
    finally:
        await edge.process.stop(60)
        await edge.forks.close()
        await region.kill()


async def answered(edge, num=16):
    """So many connections, of which each process has some, are answered."""
    return [(await edge.ask(key=OTHER))[0] for _ in range(num)] == [200] * num


async def serials(edge, num=16):
    """The certificates that so many new connections are shown."""
    found = set()
    for _ in range(num):
        _, writer = await asyncio.open_connection("127.0.0.1", edge.ports["main"], ssl=edge.tls)
        found.add(writer.get_extra_info("peercert")["serialNumber"])
        writer.close()
    return found


def another_pair(edge):
    """In place of the one that is there, by the same authority; its serial."""
    edge.authority.cert.unlink()
    pki.ensure(edge.authority.cert.parent, dt.datetime.now(dt.UTC))
    return f"{x509.load_pem_x509_certificate(edge.authority.cert.read_bytes()).serial_number:X}"


async def test_two_processes_are_one_edge(crewed):
    first = crewed.workers()
    assert len(first) == 2
    await crewed.until(lambda: answered(crewed))
    old = await serials(crewed)
    new = another_pair(crewed)
    figures = await crewed.figures()
    assert figures["nearfield_edge_workers"] == 2
    await crewed.until(lambda: _tells_of_both(crewed))
    await orders_reach_both(crewed)

    statuses = [(await crewed.ask())[0] for _ in range(12)]
    assert statuses[:10] == [200] * 10, "a key's quota is the edge's"
    assert 429 in statuses[10:]

    assert {int(each, 16) for each in old} != {int(new, 16)}
    await crewed.until(lambda: _shows(crewed, new))  # each process reads the new pair by itself

    os.kill(first[0], signal.SIGKILL)  # the one that serves operators too
    assert await answered(crewed), "who comes meanwhile is served by the other, or by the next"
    await crewed.until(lambda: _has_two(crewed))
    assert set(crewed.workers()) != set(first)
    assert await _shows(crewed, new), "and the one that was forked since"

    pool = crewed.pool()
    crewed.region.script = _slow
    running = asyncio.ensure_future(crewed.ask(pool, key=OTHER))
    await asyncio.wait_for(crewed.region.asked.wait(), 60)
    stopping = asyncio.ensure_future(crewed.process.stop(60))
    status, headers, _ = await asyncio.wait_for(running, 60)
    assert (status, headers["connection"]) == (200, "close"), (
        "who is served when it ends is served to the end"
    )
    await stopping
    await pool.close()
    with pytest.raises(DialError):
        await crewed.ask(key=OTHER)


async def _shows(crewed, serial):
    return {int(each, 16) for each in await serials(crewed)} == {int(serial, 16)}


async def _tells_of_both(crewed):
    """What other edges hear is the sum of its processes."""
    word, _ = crewed.region.pops._heard.get("local", (None, 0.0))
    return word is not None and word.processes == 2 and word.regions["iad"].answered >= 16


async def _has_two(crewed):
    return (await crewed.figures())["nearfield_edge_workers"] == 2


async def _slow(exchange, region):
    region.asked.set()
    await asyncio.sleep(0.5)
    await world_module.answers(exchange, region)


async def orders_reach_both(crewed):
    pool, headers = crewed.pool("admin"), (("authorization", f"Bearer {ADMIN}"),)
    for verb, frozen in (("freeze", True), ("thaw", False)):
        status, _, body = await whole(await pool.request("POST", f"/nearfield/rows/{verb}", headers))
        assert (status, json.loads(body)["frozen"]) == (200, frozen)
        assert (await crewed.figures())["nearfield_edge_rows_frozen"] == frozen, "the least of both says"
    await pool.close()


def test_who_dies_again_and_again_waits_and_nobody_is_sent_to_it():
    crew = Crew([{"main": sock} for sock in bind("127.0.0.1", 0, 2)], drain_s=0.0)
    signal.pthread_sigmask(signal.SIG_SETMASK, crew._mask)
    worker, pauses = crew._workers[0], []
    sock = worker.place.sockets["main"]
    for _ in range(8):
        sock.listen()
        socket.create_connection(sock.getsockname()).close()
        worker.since = began = time.monotonic()
        crew._lost(worker, -9)
        pauses.append(round(worker.due - began, 1))
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(sock.getsockname())
    worker.since = time.monotonic() - 2 * CALM_S
    crew._lost(worker, -9)
    assert worker.due <= time.monotonic()
    crew._end()
