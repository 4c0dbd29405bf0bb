"""The way from a node to its region's store, as a relay that can be told what to do to the next reads of blobs."""

import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

Fault = Callable[[socket.socket, int, int], bool]
"""Given the reader's connection and the range that it asks for: whether the store is to answer after all."""

END = b"\r\n\r\n"
STALL_S = 0.5
_READ = re.compile(rb"GET /nearfield-blobs/.*\r\nrange: bytes=(\d+)-(\d+)\r\n", re.DOTALL | re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def _partial(first: int, last: int, length: int) -> bytes:
    head = f"HTTP/1.1 206 Partial Content\r\ncontent-length: {length}\r\ncontent-range: bytes {first}-{last}/*\r\n\r\n"
    return head.encode()


def stalls(_: socket.socket, __: int, ___: int) -> bool:
    """Nothing for a while, then the right answer."""
    time.sleep(STALL_S)
    return True


def hangs(near: socket.socket, _: int, __: int) -> bool:
    """Nothing at all, for as long as the reader is there."""
    near.recv(1)
    return False


def resets(near: socket.socket, _: int, __: int) -> bool:
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near.close()
    return False


def answers_503(near: socket.socket, _: int, __: int) -> bool:
    near.sendall(b"HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\n\r\n")
    return False


def answers_412(near: socket.socket, _: int, __: int) -> bool:
    """The object is not the one whose tag was told."""
    near.sendall(b"HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n")
    return False


def answers_404(near: socket.socket, _: int, __: int) -> bool:
    near.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
    return False


def answers_another_range(near: socket.socket, first: int, last: int) -> bool:
    near.sendall(_partial(first + 1, last + 1, last - first + 1) + bytes(last - first + 1))
    return False


def answers_a_short_body(near: socket.socket, first: int, last: int) -> bool:
    """As much as it announces, and that is less than was asked for."""
    near.sendall(_partial(first, last, last - first) + bytes(last - first))
    return False


def closes_in_the_body(near: socket.socket, first: int, last: int) -> bool:
    near.sendall(_partial(first, last, last - first + 1) + bytes((last - first) // 2))
    near.close()
    return False


def answers_other_bytes(near: socket.socket, first: int, last: int) -> bool:
    """Those of a file that was changed."""
    near.sendall(_partial(first, last, last - first + 1) + bytes(last - first + 1))
    return False


class BadWay:
    """Relays to `target`. Of the reads of blobs `faults` are used up one each, and `always` is done to all."""

    def __init__(self) -> None:
        self.target = ("", 0)
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self._wronged: set[socket.socket] = set()
        """Readers in whose requests a fault is at work: the store, which never heard of them, does not end it."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, suppress(ConnectionRefusedError), socket.create_connection(self.target) as far:
            back = threading.Thread(target=self._answers, args=(far, near), daemon=True)
            back.start()
            with suppress(OSError):
                self._requests(near, far)
            for each in (far, near):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            back.join()

    def _requests(self, near: socket.socket, far: socket.socket) -> None:
        data = b""
        while True:
            while END not in data:
                if not (more := near.recv(65_536)):
                    return
                data += more
            head, _, data = data.partition(END)
            head += END
            if not self._passes(near, head):
                continue
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            far.sendall(head + data[:length])
            left, data = length - len(data), data[length:]
            while left > 0 and (more := near.recv(min(left, 65_536))):
                far.sendall(more)
                left -= len(more)

    def _passes(self, near: socket.socket, head: bytes) -> bool:
        """Whether the store is to answer this request."""
        found = _READ.match(head)
        fault = self.always or (self.faults.popleft() if found and self.faults else None)
        if found is None or fault is None:
            return True
        self._wronged.add(near)
        try:
            return fault(near, int(found[1]), int(found[2]))
        finally:
            self._wronged.discard(near)

    def _answers(self, far: socket.socket, near: socket.socket) -> None:
        """A store closes a connection on which nothing is asked for ten seconds, as long as a reader waits."""
        with suppress(OSError):
            while data := far.recv(65_536):
                near.sendall(data)
            if near not in self._wronged:
                near.shutdown(socket.SHUT_WR)
