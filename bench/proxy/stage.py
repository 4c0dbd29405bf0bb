"""What `bench edge` measures: one origin, and before it our edge and its peers, each on a core of its own.

The origin is nginx with a body of 512 bytes for small requests, and our own region's stub for rows and event streams.
"""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.proxy.request import body, request
from bench.servers import HOST, START_S, Missing, free_port, process
from deploy.trust import pki

SMALL_BYTES = 512
POLL_S = 0.02
_MAIN = """daemon off; pid {folder}/pid; error_log {folder}/error.log crit; worker_processes 1;
events {{ worker_connections 8192; }}
http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
uwsgi_temp_path {folder}; scgi_temp_path {folder}; keepalive_requests 100000000; default_type application/json;
{http} }}
"""
_ORIGIN = """upstream region {{ server {region}; keepalive 64; }}
server {{ listen {port} backlog=4096; location / {{ return 200 '{body}'; }}
location = /rows {{ proxy_pass http://region; proxy_http_version 1.1; proxy_buffering off; }} }}"""
_PROXY = """{certificate}upstream origin {{ server {origin}; keepalive 64; keepalive_requests 100000000; }}
server {{ listen {port} {ssl} backlog=4096; location / {{ proxy_pass http://origin; proxy_http_version 1.1;
proxy_buffering off; proxy_set_header Connection ""; }} }}"""
_CERTIFICATE = "ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;\n"


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy that answers: where, by which processes, and the CA to trust if it speaks TLS."""

    name: str
    port: int
    pids: tuple[int, ...]
    ca: Path | None = None

    @property
    def address(self) -> str:
        """As a proxy before it writes it."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """As a client writes it."""
        return f"{'https' if self.ca else 'http'}://{self.address}"

    def cpu_s(self) -> float:
        """Processor seconds of all its processes so far, to the nanosecond."""
        return sum(_sched_ns(pid)[0] for pid in self.pids) / 1e9

    def queued_s(self) -> float:
        """Seconds that its processes were ready to run so far, and others had their cores."""
        return sum(_sched_ns(pid)[1] for pid in self.pids) / 1e9

    def resident_bytes(self) -> int:
        """Memory of all its processes."""
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in self.pids)


def _sched_ns(pid: int) -> tuple[int, int]:
    """On a core, and in line for one, of all threads."""
    said = [(task / "schedstat").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(each[0]) for each in said), sum(int(each[1]) for each in said)


def cores() -> tuple[set[int], set[int]]:
    """Those of proxies and those of clients and origin: apart, where there are two."""
    here = sorted(os.sched_getaffinity(0))
    return ({here[-1]}, set(here[:-1])) if len(here) > 1 else (set(here), set(here))


@contextmanager
def beside_proxies() -> Iterator[None]:
    """This process stays off the proxy's core, where there are two: the kernel would move it there and back."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores()[1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def small_body() -> str:
    """A whole chat completion of exactly SMALL_BYTES, so that gateways which read answers can."""
    message = {"role": "assistant", "content": ""}
    answer = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1,
        "model": "bench/small",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    message["content"] = "x" * (SMALL_BYTES - len(json.dumps(answer)))
    return json.dumps(answer)


def pinned(command: Sequence[str], on: set[int]) -> list[str]:
    """The command, kept to those cores."""
    return ["taskset", "-c", ",".join(map(str, sorted(on))), *command]


@contextmanager
def origin(folder: Path, region: str) -> Iterator[Proxy]:
    """The nginx that answers; rows come from `region` behind it. Raises: Missing."""
    port = free_port()
    http = _ORIGIN.format(port=port, body=small_body(), region=region)
    with _nginx(folder, http, port, cores()[1]) as pid:
        yield Proxy("origin", port, _children(pid))


@contextmanager
def nginx(folder: Path, upstream: str, authority: pki.LocalAuthority | None = None) -> Iterator[Proxy]:
    """nginx as the proxy, one worker. Raises: Missing."""
    port = free_port()
    certificate = _CERTIFICATE.format(cert=authority.cert, key=authority.key) if authority else ""
    http = _PROXY.format(certificate=certificate, port=port, origin=upstream, ssl="ssl" if authority else "")
    with _nginx(folder, http, port, cores()[0]) as pid:
        yield Proxy("nginx", port, _children(pid), authority.ca if authority else None)


@contextmanager
def _nginx(folder: Path, http: str, port: int, on: set[int]) -> Iterator[int]:
    if shutil.which("nginx") is None:
        raise Missing("there is no nginx here")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nginx.conf"
    path.write_text(_MAIN.format(folder=folder, http=http))
    with process(
        pinned(["nginx", "-e", str(folder / "first.log"), "-c", str(path)], on), folder / "log"
    ) as child:
        until_listening(child, port, folder / "log")
        yield child.pid


def _children(pid: int) -> tuple[int, ...]:
    return tuple(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@contextmanager
def region(folder: Path) -> Iterator[Proxy]:
    """The stub."""
    port = free_port()
    with _child("region", {"port": port}, folder / "region.log", port, cores()[1]) as child:
        yield Proxy("region", port, (child.pid,))


@contextmanager
def ours(
    folder: Path,
    gateway: str,
    authority: pki.LocalAuthority,
    *,
    tls: bool,
    trace: tuple[str, float, float] | None = None,
) -> Iterator[Proxy]:
    """Our edge before `gateway`; `trace`: a collector, the share and the most a second. Raises: Missing."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    options: dict[str, object] = {
        "port": port,
        "gateway": gateway,
        "state": str(folder / "state"),
        "trace": trace,
    }
    options |= {"cert": str(authority.cert), "key": str(authority.key), "plain": not tls}
    with _child("edge", options, folder / "log", port, cores()[0]) as child:
        proxy = Proxy("nearfield", port, (child.pid,), authority.ca if tls else None)
        _until_answered(proxy, folder / "log")
        yield proxy


@contextmanager
def crew(
    folder: Path, gateway: str, authority: pki.LocalAuthority, size: int, *, tls: bool
) -> Iterator[Proxy]:
    """Our edge as `size` processes, and the one that forks them, on all cores. Raises: Missing."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    options: dict[str, object] = {"port": port, "gateway": gateway, "state": str(folder / "state")}
    options |= {"cert": str(authority.cert), "key": str(authority.key), "plain": not tls, "size": size}
    with _child("crew", options, folder / "log", port, cores()[0] | cores()[1]) as child:
        proxy = Proxy(f"nearfield x {size}", port, _children(child.pid), authority.ca if tls else None)
        for _ in range(8 * size):  # each process, wherever the kernel sends who asks
            _until_answered(proxy, folder / "log")
        yield proxy


@contextmanager
def pump(folder: Path, upstream: str) -> Iterator[Proxy]:
    """Bare bytes, see `bench/proxy/pump.py`. Raises: Missing."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "bench.proxy.pump", str(port), upstream]
    with process(pinned(command, cores()[0]), folder / "log") as child:
        until_listening(child, port, folder / "log")
        yield Proxy("a bare pump on uvloop", port, (child.pid,))


def _until_answered(proxy: Proxy, log: Path) -> None:
    """Return once it has heard rows and answers. Raises: Missing with the log's end."""
    end, said = time.monotonic() + START_S, b""
    while time.monotonic() < end:
        connection = socket.create_connection((HOST, proxy.port), START_S)
        context = client_tls(proxy)
        with context.wrap_socket(connection, server_hostname=HOST) if context else connection as line:
            line.sendall(request(proxy.port, body()))
            said = line.recv(1 << 16)
        if said.startswith(b"HTTP/1.1 200 "):
            return
        time.sleep(POLL_S)
    raise Missing(f"it does not answer: {said!r} {log.read_text(errors='replace')[-400:]}")


@contextmanager
def _child(
    role: str, options: dict[str, object], log: Path, port: int, on: set[int]
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "bench.proxy.child", role, json.dumps(options)]
    with process(pinned(command, on), log) as child:
        until_listening(child, port, log)
        yield child


def until_listening(child: subprocess.Popen[bytes], port: int, log: Path, wait_s: float = START_S) -> None:
    """Return once `port` takes connections. Raises: Missing with the log's end."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end and child.poll() is None:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            time.sleep(POLL_S)
        else:
            return
    raise Missing(f"it did not start: {log.read_text(errors='replace')[-400:]}")


def client_tls(proxy: Proxy) -> ssl.SSLContext | None:
    """How a client of ours trusts it."""
    return ssl.create_default_context(cafile=str(proxy.ca)) if proxy.ca else None
