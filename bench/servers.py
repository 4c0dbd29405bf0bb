"""The servers of a storage benchmark as processes: ours and the bare sendfile loop. Peers: `bench.stores.peers`."""

import configparser
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.blast import Failed, Line
from deploy.fleet import free_ports
from storage.client.sdk import Endpoint

HOST = "127.0.0.1"
START_S = 60.0  # a server that is not there by then does not start
STOP_S = 20.0  # ours commits what is queued; a peer has nothing to say
POLL_S = 0.002  # the grain of the time to the first answer


class Missing(Exception):
    """A server cannot be had here, and why."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers. `pid` is its first process; `ready_s` is from its start to its first 200."""

    name: str
    store: Endpoint
    pid: int
    ready_s: float

    def memory_bytes(self) -> int:
        """Resident memory of the process now."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def free_port() -> int:
    """A port that nobody has now, and that no outgoing connection will be given before it is bound."""
    return free_ports(1)[0]


@contextmanager
def process(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """One process with its output in `log`, ended with the block."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def until_answered(
    child: subprocess.Popen[bytes], store: Callable[[], Endpoint | None], log: Path, started: float
) -> float:
    """Seconds from `started` to the first 200 to ListBuckets. Raises: Missing with the log's end."""
    while time.perf_counter() - started < START_S and child.poll() is None:
        try:
            endpoint = store()
            if endpoint is not None:
                with Line(endpoint) as line:
                    line.call("GET", "/").demand(200)
                return time.perf_counter() - started
        except (OSError, Failed):
            pass
        time.sleep(POLL_S)
    raise Missing(f"it did not start: {log.read_text(errors='replace')[-400:]}")


@contextmanager
def ours(folder: Path, *, small_parts: bool = False) -> Iterator[Served]:
    """`python -m storage` on `folder`. With `small_parts` the same store without S3's least size of a part."""
    port = free_port()
    log = folder.with_suffix(".log")
    module = ["-m", "bench.stores.small_parts"] if small_parts else ["-m", "storage"]
    credentials = folder / "credentials"
    started = time.perf_counter()
    with process([sys.executable, *module, str(folder), "--port", str(port)], log) as child:
        ready_s = until_answered(child, lambda: _endpoint(credentials, port), log, started)
        store = _endpoint(credentials, port)
        if store is None:
            raise Missing("the store has no credentials")
        yield Served("nearfield", store, child.pid, ready_s)


def _endpoint(credentials: Path, port: int) -> Endpoint | None:
    """Who we are to the store, once it has said so."""
    parser = configparser.ConfigParser(interpolation=None)
    if not parser.read(credentials):
        return None
    keys = parser["default"]
    return Endpoint(f"http://{HOST}:{port}", keys["aws_access_key_id"], keys["aws_secret_access_key"])


@contextmanager
def bare(path: Path, log: Path) -> Iterator[Served]:
    """The bare sendfile loop over one file."""
    port = free_port()
    store = Endpoint(f"http://{HOST}:{port}", "AKBARE", "none")
    started = time.perf_counter()
    with process([sys.executable, "-m", "bench.stores.bare", str(path), str(port)], log) as child:
        while True:
            try:
                with Line(store):
                    break
            except OSError as error:
                if time.perf_counter() - started > START_S or child.poll() is not None:
                    raise Missing("the bare loop did not start") from error
                time.sleep(POLL_S)
        yield Served("bare sendfile loop", store, child.pid, time.perf_counter() - started)
