"""A small HTTP/1.1 range server with a script of faults, in threads: what a store does on its worst day."""

import socket
import threading
import time
from collections import Counter

CRLF = b"\r\n"


class ScriptedStore:
    """Serves `objects` {path: bytes}. `faults` is a list of callables; each is asked once per request and the
    first that takes the request (returns True) is used up."""

    def __init__(self, objects, tls=None, port=0):
        self.objects = dict(objects)
        self._tls = tls
        self.faults = []
        self.requests = []  # (path, first, last, if_match)
        self.served = Counter()  # path -> bytes of bodies sent whole
        self.etag = "tag-1"
        self.delay_s = 0.0
        self.greeting_s = 0.0  # before a handshake is answered
        self.num_connections = 0
        self._lock = threading.Lock()
        self._connections = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def close(self):
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()

    def drop_connections(self):
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.num_connections += 1
                self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        if self._tls:
            time.sleep(self.greeting_s)
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                return
        with connection:
            data = b""
            while True:
                while CRLF * 2 not in data:
                    try:
                        more = connection.recv(65_536)
                    except OSError:
                        return
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(CRLF * 2)
                try:
                    if not self._answer(connection, Request(head)):
                        return
                except OSError:
                    return

    def _answer(self, connection, request):
        if self.delay_s:
            time.sleep(self.delay_s)
        with self._lock:
            self.requests.append((request.path, request.first, request.last, request.if_match))
            fault = next((each for each in self.faults if each.takes(request)), None)
            if fault:
                self.faults.remove(fault)
        if fault:
            return fault.answer(self, connection, request)
        if request.path not in self.objects:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return True
        if request.if_match and request.if_match != f'"{self.etag}"':
            connection.sendall(b"HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n")
            return True
        body = self.body(request)
        connection.sendall(self.head(request, len(body)) + body)
        with self._lock:
            self.served[request.path] += len(body)
        return True

    def body(self, request):
        return self.objects[request.path][request.first : request.last + 1]

    def head(self, request, length):
        size = len(self.objects[request.path])
        return (
            f'HTTP/1.1 206 Partial Content\r\ncontent-length: {length}\r\netag: "{self.etag}"\r\n'
            f"content-range: bytes {request.first}-{request.last}/{size}\r\n\r\n"
        ).encode()


class Request:
    """The parts of a request head that matter here."""

    def __init__(self, head):
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = lines[0].split(" ")
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        self.fields = fields
        first, _, last = fields["range"].removeprefix("bytes=").partition("-")
        self.first, self.last = int(first), int(last)
        self.if_match = fields.get("if-match")


class Fault:
    """One fault, for the first request (of `path`, when given) that covers `offset`."""

    def __init__(self, offset=None, path=None):
        self.offset, self.path = offset, path

    def takes(self, request):
        right = self.path in {None, request.path}
        return right and (self.offset is None or request.first <= self.offset <= request.last)

    def answer(self, store, connection, request):
        """Send what goes wrong; False closes the connection."""
        raise NotImplementedError


class Flip(Fault):
    """The right length, one bit wrong."""

    def answer(self, store, connection, request):
        body = bytearray(store.body(request))
        body[(self.offset or request.first) - request.first] ^= 1
        connection.sendall(store.head(request, len(body)) + body)
        return True


class Cut(Fault):
    """Announces everything, sends what stands before `offset` or half, closes."""

    def answer(self, store, connection, request):
        self.send(store, connection, request)
        return False

    def send(self, store, connection, request):
        body = store.body(request)
        end = len(body) // 2 if self.offset is None else self.offset - request.first
        connection.sendall(store.head(request, len(body)) + body[:end])


class Reset(Cut):
    """As much of the body, then a reset."""

    def answer(self, store, connection, request):
        self.send(store, connection, request)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return False


class Short(Fault):
    """A consistent answer, but of fewer bytes than asked."""

    def answer(self, store, connection, request):
        body = store.body(request)[:-1]
        connection.sendall(store.head(request, len(body)) + body)
        return True


class Raw(Fault):
    """These very bytes, then closed."""

    def __init__(self, data, offset=None):
        super().__init__(offset)
        self.data = data

    def answer(self, store, connection, request):
        connection.sendall(self.data)
        return False


class Status(Fault):
    """An error status; the connection stays."""

    def __init__(self, status, offset=None):
        super().__init__(offset)
        self.status = status

    def answer(self, store, connection, request):
        connection.sendall(f"HTTP/1.1 {self.status} No\r\ncontent-length: 2\r\n\r\nno".encode())
        return True


class Stall(Fault):
    """Nothing at all, for a while."""

    def __init__(self, seconds, offset=None):
        super().__init__(offset)
        self.seconds = seconds

    def answer(self, store, connection, request):
        time.sleep(self.seconds)
        return False


class Hang(Fault):
    """Nothing more, until whoever asked has had enough: however long that takes on a busy machine."""

    def answer(self, store, connection, request):
        connection.settimeout(60)
        connection.recv(1)
        return False


def objects_of(revision, files):
    """{blob path: bytes} as a region's store holds them."""
    return {f"/nearfield-blobs/{entry.blake3}": files[entry.path] for entry in revision.files}
