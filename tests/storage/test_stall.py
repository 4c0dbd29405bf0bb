"""An upload behind a store that takes nothing ends, and one that moves slowly does not."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.exceptions import SSLError

from storage.client.aws import translated
from storage.client.sdk import Endpoint, Stall, Unreachable, upload_folder


@contextmanager
def overloaded():
    """A gateway before a store that is away: every request is answered 503. Gives the endpoint and what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self):
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            self.send_response(503)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Endpoint(f"http://127.0.0.1:{server.server_port}", "id", "secret"), asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_no_try_is_made_once_nothing_has_moved_for_the_limit(tmp_path):
    """The clock is at 0 before the first request was answered, and an hour later after it."""
    file = tmp_path / "a"
    file.write_bytes(b"x")
    heard = []
    with overloaded() as (endpoint, asked):
        stall = Stall(60.0, lambda: heard.append(1), clock=lambda: 3600.0 * len(asked))
        with pytest.raises(Unreachable, match="has not moved for 3600 s"):
            upload_folder(endpoint, "models", "", [("a", file)], stall=stall)
    assert len(asked) == 1, "not eight"
    assert not heard, "an answer of 503 is no move"


def test_bytes_that_go_again_are_no_move_and_new_ones_are():
    now, heard = [0.0], []
    stall = Stall(60.0, lambda: heard.append(now[0]), clock=lambda: now[0])
    for now[0], num_bytes in ((1.0, 10), (2.0, -10), (3.0, 10), (4.0, 1)):
        stall.sent(num_bytes)
    assert heard == [1.0, 4.0]
    now[0] = 63.9
    stall._check()
    now[0] = 64.0
    with pytest.raises(Unreachable):
        stall._check()


def test_a_line_that_ends_before_tls_is_up_is_no_bad_certificate():
    """The SDK calls both an SSL validation that failed."""
    url = "https://store.example:8444/models/acme/m/model.safetensors?partNumber=28"
    eof = "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)"
    with (
        pytest.raises(Unreachable, match=r": store.example:8444 takes connections and ends them at once$"),
        translated(),
    ):
        raise SSLError(endpoint_url=url, error=eof)
    with pytest.raises(Unreachable, match="self-signed certificate"), translated():
        raise SSLError(endpoint_url=url, error="self-signed certificate")
