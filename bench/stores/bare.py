"""`python -m bench.stores.bare FILE PORT`: the least server that can send a range of a file, as the limit of any other.

A thread a connection, one `sendfile` loop a request; it trusts its caller and checks nothing but the range.
"""

import os
import re
import socket
import sys
import threading

_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 206 Partial Content\r\ncontent-length: %d\r\n\r\n"
RECEIVE_BYTES = 64 * 1024


def serve(connection: socket.socket, fd: int, size: int) -> None:
    """Answer every request of one connection with its range, or the whole file."""
    with connection:
        held = b""
        while data := connection.recv(RECEIVE_BYTES):
            held += data
            if b"\r\n\r\n" not in held:
                continue
            match = _RANGE.search(held)
            start, end = (int(match[1]), int(match[2]) + 1) if match else (0, size)
            held = b""
            connection.sendall(_HEAD % (end - start), socket.MSG_MORE)
            while start < end:
                start += os.sendfile(connection.fileno(), fd, start, end - start)


def main(path: str, port: int) -> None:
    """Listen until killed."""
    fd = os.open(path, os.O_RDONLY)
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, fd, os.fstat(fd).st_size), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
