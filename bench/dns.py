"""The name server's answers in a second of one core, sockets included, against other Python name servers and NSD.

Server and client have a core each. What counts is answers by the processor time that the server took, as the kernel
counted it; the client keeps enough questions waiting for the server never to be idle.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.edns
import dns.message

from bench.llama import cache_folder
from bench.packages import installed
from bench.rows import Row, compare
from bench.servers import HOST, START_S, Missing, free_port, process
from deploy.trust import secrets

FLOOR = 20_000.0  # the issue's, answers in a second of one core
PEER_RATIO = 5.0
PACKAGES = Path(__file__).with_name("dns_peers.txt")
NAME = "api.nf.example"
UDP_SEGMENT = 103  # linux/udp.h: one send becomes many datagrams, so that the client is not what is measured
BATCH = 32
NUM_SOCKETS = 4
LOST_S = 0.2
TICKS = os.sysconf("SC_CLK_TCK")

Say = Callable[[str], None]

_TOML = """[platform]
home = "iad"
secrets = "secrets"
[regions.iad]
gateway = "127.0.0.1:1"
store = "http://127.0.0.1:2"
nodes = []
public_key = "00"
[dns]
zone = "nf.example"
answers_per_s = 100000000
[dns.servers.ns1]
listen = ["127.0.0.1:{port}"]
[dns.pops.fra]
addresses = ["192.0.2.1"]
near = ["10.0.0.0/9"]
[dns.pops.iad]
addresses = ["192.0.2.2"]
near = ["10.128.0.0/9"]
"""
_NSD = """server:
  ip-address: 127.0.0.1@{port}
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  database: ""
  zonelistfile: "{folder}/list"
  pidfile: "{folder}/pid"
  xfrdfile: "{folder}/xfrd"
  xfrdir: "{folder}"
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: nf.example
  zonefile: zone
"""
_NSD_ZONE = """$ORIGIN nf.example.
@ 3600 IN SOA ns1 hostmaster 1 7200 900 1209600 60
@ 3600 IN NS ns1
ns1 3600 IN A 127.0.0.1
api 20 IN A 192.0.2.1
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one server did: answers by its own processor time, and by the clock."""

    per_cpu_s: float
    per_s: float
    lost: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=3.0, help="of load on each server (3)")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="where a peer is installed")


def measure(options: argparse.Namespace, say: Say) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    steered, absent = _questions(NAME), _questions(*(f"x{n:02d}.nf.example" for n in range(BATCH)))
    notes = [
        f"{BATCH} questions at once on each of {NUM_SOCKETS} sockets, EDNS with a client subnet, one core a side"
    ]
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        with _ours(Path(scratch)) as (pid, port):
            say("ours")
            ours = _load(pid, port, steered, options.seconds)
            nothing = _load(pid, port, absent, options.seconds)
        rows = [_row("one core, sockets included, against the issue's floor", ours, FLOOR, 1.0)]
        rows.append(_row("names that do not exist, against the same floor", nothing, FLOOR, 1.0))
        notes.append(f"ours by the clock: {ours.per_s:,.0f}/s, {ours.lost} lost")
        for name, start, target in _peers(options.cache, Path(scratch)):
            try:
                with start() as (pid, port):
                    say(name)
                    peer = _load(pid, port, steered, options.seconds)
            except Missing as error:
                notes.append(f"no {name}: {error}")
                continue
            rows.append(_row(f"against {name}", ours, peer.per_cpu_s, target))
            notes.append(f"{name} by the clock: {peer.per_s:,.0f}/s, {peer.lost} lost")
    return rows, notes


def _row(what: str, ours: Rate, peer: float, target: float | None) -> Row:
    return compare(f"answers, {what}", ours.per_cpu_s, peer, "1/s", better="higher", target=target)


def _questions(*names: str) -> list[bytes]:
    """One batch of questions of one length, each from another network."""
    found = []
    for number in range(BATCH):
        subnet = dns.edns.ECSOption(f"10.{8 * number}.{number}.0", 24)
        query = dns.message.make_query(names[number % len(names)], "A", options=[subnet], id=number)
        found.append(query.to_wire())
    return found


def _load(pid: int, port: int, batch: Sequence[bytes], seconds: float) -> Rate:
    cores = os.sched_getaffinity(0)
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(pid, {min(cores)})
        os.sched_setaffinity(0, {max(cores)})
        socks = [stack.enter_context(_client(port, len(batch[0]))) for _ in range(NUM_SOCKETS)]
        _ask(socks, batch, 0.3)
        before, began = _cpu_s(pid), time.perf_counter()
        num, lost = _ask(socks, batch, seconds)
        took, cpu_s = time.perf_counter() - began, _cpu_s(pid) - before
    return Rate(num / cpu_s, num / took, lost)


def _client(port: int, size: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((HOST, port))
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.settimeout(LOST_S)
    return sock


def _ask(socks: Sequence[socket.socket], batch: Sequence[bytes], seconds: float) -> tuple[int, int]:
    """(answers, lost)."""
    whole = b"".join(batch)
    num, lost = 0, 0
    for sock in socks:
        sock.send(whole)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for sock in socks:
            heard = _drain(sock, len(batch))
            num, lost = num + heard, lost + len(batch) - heard
            sock.send(whole)
    for sock in socks:
        _drain(sock, len(batch))
    return num, lost


def _drain(sock: socket.socket, wanted: int) -> int:
    for number in range(wanted):
        try:
            answer = sock.recv(2048)
        except TimeoutError:
            return number
        if answer[3] & 15 not in {0, 3}:
            raise Missing(f"it answers {answer[:4].hex()}")
    return wanted


def _cpu_s(pid: int) -> float:
    """Processor time of a process and its children, by the kernel."""
    total = 0.0
    for each in _family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


@contextmanager
def _ours(folder: Path) -> Iterator[tuple[int, int]]:
    """`nearfield run dns`, as an operator runs it, but for its rate limit, which would stop a single client."""
    port, toml = free_port(), folder / "nearfield.toml"
    toml.write_text(_TOML.format(port=port))
    secrets.make_root_key(folder / "secrets")
    with _serving(
        [sys.executable, "-m", "deploy.roles.process", "dns", "ns1", str(toml)], folder / "log", port
    ) as pid:
        yield pid, port


@contextmanager
def _serving(command: Sequence[str], log: Path, port: int) -> Iterator[int]:
    """A server that answers. Raises: Missing."""
    try:
        with process(command, log) as child:
            _until_answers(child, port, log)
            yield child.pid
    except FileNotFoundError as error:
        raise Missing(str(error)) from error


def _until_answers(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((HOST, port))
        sock.settimeout(0.05)
        while time.monotonic() < end and child.poll() is None:
            try:
                sock.send(dns.message.make_query(NAME, "A").to_wire())
                if sock.recv(2048):
                    return
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.01)
    raise Missing(f"it does not answer: {log.read_text()[-300:]}")


Peer = tuple[str, Callable[[], AbstractContextManager[tuple[int, int]]], float | None]
"""Name, how it is started (its process and port), and the ratio that is the target."""


def _peers(cache: Path, scratch: Path) -> list[Peer]:
    """NSD is there for the reader, as what C can do."""

    @contextmanager
    def python(kind: str) -> Iterator[tuple[int, int]]:
        port = free_port()
        folder = [str(_install(cache))] if kind == "dnslib" else []
        command = [sys.executable, "-m", "bench.dns_server", kind, str(port), *folder]
        with _serving(command, scratch / f"{kind}.log", port) as pid:
            yield pid, port

    @contextmanager
    def nsd() -> Iterator[tuple[int, int]]:
        binary = shutil.which("nsd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if binary is None:
            raise Missing("apt-get install nsd")
        port, folder = free_port(), scratch / "nsd"
        folder.mkdir()
        (folder / "conf").write_text(_NSD.format(port=port, folder=folder))
        (folder / "zone").write_text(_NSD_ZONE)
        with _serving([binary, "-d", "-c", str(folder / "conf")], scratch / "nsd.log", port) as pid:
            for child in _family(pid):
                os.sched_setaffinity(child, {min(os.sched_getaffinity(0))})
            yield pid, port

    return [
        ("a plain dnspython server", lambda: python("dnspython"), PEER_RATIO),
        ("dnslib's zone resolver", lambda: python("dnslib"), PEER_RATIO),
        ("NSD, one process", nsd, None),
    ]


def _install(cache: Path) -> Path:
    """A folder with dnslib. Raises: Missing."""
    return installed(cache / "dns-peers", PACKAGES)
