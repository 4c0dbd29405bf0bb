"""The node of `bench device`: a host tier in a process of its own, as beside an engine.

`python -m bench.starts.device_node FOLDER FD`, FOLDER with what `Node` writes there. Over the socket FD it is told one
byte at a time: LAND begins a load, whose descriptors are the answer; LET_GO has the weights forgotten, and is answered
when memory for the next load is there. In one process with the copies all readers would take turns at one interpreter.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bench.starts.blob import MIB
from storage.client.sdk import Endpoint
from weights_cache.cache import HostTier
from weights_cache.model.revision import Revision

Fds = tuple[int, int, int]
"""Of a landing: its weights, the states of its extents, and what wakes who waits."""
LAND, LET_GO = b"l", b"g"
POOL_S = 0.05  # between two looks at the pool
NUM_FDS = 3
ANSWER_S = 120.0  # 4 GiB of fresh memory take seconds
STORE, REVISION = "store.json", "revision.json"


class Node:
    """This side of it: one revision, landed as often as wanted."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    @contextmanager
    def landed(self) -> Iterator[Fds]:
        """What an engine is given of weights that are on their way; they are forgotten at the end. Raises OSError."""
        self._line.sendall(LAND)
        _, fds, _, _ = socket.recv_fds(self._line, 1, NUM_FDS)
        if len(fds) != NUM_FDS:
            raise ConnectionResetError("the node of the benchmark ended")
        try:
            yield (fds[0], fds[1], fds[2])
        finally:
            for fd in fds:
                os.close(fd)
            self._line.sendall(LET_GO)
            if not self._line.recv(1):
                raise ConnectionResetError("the node of the benchmark ended")


@contextmanager
def node_of(store: Endpoint, revision: Revision, folder: Path) -> Iterator[Node]:
    """A node with memory for `revision`; its words are in `folder`."""
    (folder / STORE).write_text(json.dumps(asdict(store)))
    (folder / REVISION).write_bytes(revision.to_json())
    ours, theirs = socket.socketpair()
    ours.settimeout(ANSWER_S)
    command = [sys.executable, "-m", "bench.starts.device_node", str(folder), str(theirs.fileno())]
    with ours, theirs, subprocess.Popen(command, pass_fds=(theirs.fileno(),)) as child:
        theirs.close()
        try:
            if not ours.recv(1):
                raise ConnectionResetError("the node of the benchmark did not start")
            yield Node(ours)
        finally:
            ours.close()  # which it ends by
            child.wait()


def main() -> None:
    """Serve until the other side is gone."""
    folder, line = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    store = Endpoint(**json.loads((folder / STORE).read_text()))
    revision = Revision.from_json((folder / REVISION).read_bytes())
    num_bytes = sum(file.size for file in revision.files)
    tier = HostTier(store, 2 * num_bytes, pool_bytes=num_bytes + MIB)
    _until_pooled(tier, num_bytes)
    line.sendall(LET_GO)
    while line.recv(1) == LAND:
        _serve_one(line, tier, revision, num_bytes)
    tier.close()


def _serve_one(line: socket.socket, tier: HostTier, revision: Revision, num_bytes: int) -> None:
    """One load, until it is to be forgotten; memory is given back as between two models of a node."""
    landing = tier.land(revision, pin=True)
    socket.send_fds(line, [LAND], [landing.fd, landing.ready_fd, landing.event_fd])
    line.recv(1)
    landing.wait()
    landing.release()
    tier.evict(revision.id)
    _until_pooled(tier, num_bytes)
    line.sendall(LET_GO)


def _until_pooled(tier: HostTier, num_bytes: int) -> None:
    while tier.pooled_bytes < num_bytes:
        time.sleep(POOL_S)


if __name__ == "__main__":
    main()
