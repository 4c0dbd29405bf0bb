"""The physical limit of a load, measured: a bare socket reader that checks nothing and allocates nothing.

It reads the same object from the same store into memory that is there already. What a real load takes longer than
this is its own doing.
"""

import itertools
import socket
import threading
import time
from collections.abc import Iterable, Mapping

from storage.client.sdk import Endpoint, sign, url_path
from weights_cache.memory.buffers import Buffer
from wire.address import split_address

RANGE_BYTES = 16 << 20
NUM_CONNECTIONS = 4
HEAD_BYTES = 4096

Shape = tuple[int, int]
"""How a bare reader asks: connections, and bytes of a range."""
USUAL: Shape = (NUM_CONNECTIONS, RANGE_BYTES)


def bare_s(
    store: Endpoint, bucket: str, key: str, num_bytes: int, shapes: Iterable[Shape] = (USUAL,)
) -> Mapping[Shape, float]:
    """Seconds of reading the first `num_bytes` of an object, one bare reader after another."""
    memory = Buffer(num_bytes)
    memory.populate(0, num_bytes, patient=True)
    with memory.view()[:num_bytes] as view:
        found = {shape: num_bytes / bare_bytes_per_s(store, bucket, key, view, shape) for shape in shapes}
    memory.close()
    return found


def bare_bytes_per_s(
    store: Endpoint, bucket: str, key: str, memory: memoryview, shape: Shape = USUAL
) -> float:
    """Bytes a second of reading the first `len(memory)` bytes of an object into `memory`."""
    path = url_path(bucket, key)
    num_connections, range_bytes = shape
    turns = itertools.count(0, range_bytes)
    errors: list[OSError] = []

    def read() -> None:
        try:
            with socket.create_connection(split_address(store.netloc)) as connection:
                while (start := next(turns)) < len(memory):
                    _range(connection, store, path, start, memory[start : start + range_bytes])
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(num_connections)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return len(memory) / (time.perf_counter() - started)


def _range(connection: socket.socket, store: Endpoint, path: str, start: int, view: memoryview) -> None:
    headers = (("range", f"bytes={start}-{start + len(view) - 1}"),)
    lines = [f"{name}: {value}" for name, value in sign(store, "GET", path, "", headers)]
    connection.sendall("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(HEAD_BYTES)
        if not more:
            raise ConnectionResetError("the store closed the connection")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    if b" 206 " not in head.partition(b"\r\n")[0]:
        raise ConnectionAbortedError(f"the store answered {head[:60]!r}")
    view[: len(rest)] = rest
    reached = len(rest)
    while reached < len(view):
        num_bytes = connection.recv_into(view[reached:], 0, socket.MSG_WAITALL)
        if not num_bytes:
            raise ConnectionResetError("the store closed the connection")
        reached += num_bytes
