"""An edge's operators' listener that knows only its status: what `ls` asks, in `bench cli` and in tests of commands."""

import datetime as dt
import http.server
import json
import ssl
import threading
from pathlib import Path
from typing import Self

from deploy.trust import pki
from deploy.trust.credentials import Credentials

MODEL = "acme/tiny"
ROW = {
    "revision": "a" * 64,
    "state": "live",
    "tier": "resident",
    "kind": "generate",
    "bytes": 6_888_192,
    "max_len": 512,
    "running": 0,
    "waiting": 0,
    "slots": 64,
    "error": None,
    "progress": None,
    "left_out": [],
}
BODY = {
    "models": {MODEL: ROW},
    "store_bytes_per_s": 1e9,
    "host_bytes_per_s": 0.0,
    "origin_bytes_per_s": 1e8,
    "attach_s": 0.2,
    "eta_error": 0.1,
}
REGION = {"body": BODY, "breaker": "closed", "heard_s": 0.2, "rtt_ms": 0.4}
REGIONS = {"iad": REGION, "fra": REGION}
EDGE = {
    "self": True,
    "heard_s": 0.0,
    "up_s": 60,
    "processes": 1,
    "nearest": "iad",
    "answers_per_s": 0.5,
    "failed_per_s": 0.0,
    "regions": {"iad": {"rtt_ms": 0.4, "down": False, "busy": 0, "answered": 3}},
}
STATUS = {
    "edge": "local",
    "edges": {"local": EDGE},
    "regions": REGIONS,
    "rows": {},
    "simulated_wan": None,
}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        raw = json.dumps(STATUS).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Nothing: what commands say is read."""


class StatusEdge:
    """Listens while it is entered; `state` is the folder whose credentials lead here."""

    def __init__(self, state: Path) -> None:
        self.state = state
        authority = pki.ensure(state / "tls", dt.datetime.now(dt.UTC))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.cert, authority.key)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        url = f"https://localhost:{self._server.server_port}"
        Credentials(
            base_url=f"{url}/v1",
            api_key="nf-x",
            admin_url=url,
            admin_key="nf-y",
            s3_url="https://localhost:9",
            s3_access_key="NFX",
            s3_secret_key="secret",  # noqa: S106 - of no store
            ca=str(authority.ca),
            s3_ca=str(authority.ca),
            state=str(state),
            regions=dict.fromkeys(REGIONS, f"{url}/v1"),
        ).save(state)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
