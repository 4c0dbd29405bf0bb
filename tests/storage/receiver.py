"""A receiver of webhooks in a thread: keeps what it was sent, and answers as it is told."""

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

PATIENCE_S = 30.0


class Receiver:
    """Listens on a free port. `answer(nth request) -> status`; `hold` keeps answers back while it is set."""

    def __init__(
        self, answer: Callable[[int], int] = lambda _: 200, tls: tuple[Path, Path] | None = None
    ) -> None:
        self.answer = answer
        self.hold = threading.Event()
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self._news = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer._take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                while outer.hold.is_set():
                    time.sleep(0.01)
                status = outer.answer(len(outer.requests))
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if tls is None else "https"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self._scheme == "http" else "localhost"
        return f"{self._scheme}://{host}:{self._server.server_address[1]}/hook?from=test"

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        with self._news:
            self.requests.append((path, headers, body))
            self._news.notify_all()

    def wait(self, enough: Callable[[], bool]) -> bool:
        """True as soon as `enough()`; a test that never gets there ends."""
        with self._news:
            return self._news.wait_for(enough, PATIENCE_S)

    def records(self) -> list[dict]:
        return [record for _, _, body in list(self.requests) for record in json.loads(body)["Records"]]

    def told(self) -> list[tuple[str, str]]:
        """(event, key) of each record, in the order in which they came."""
        return [(record["eventName"], record["s3"]["object"]["key"]) for record in self.records()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.clear()
        self._server.shutdown()
        self._server.server_close()
