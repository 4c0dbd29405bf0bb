"""A small real collector: takes OTLP over HTTP as JSON, and nothing that is not of the form."""

import json
import re
import threading
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = {1: "internal", 2: "server", 3: "client"}
VALUES = {"stringValue": str, "boolValue": bool, "doubleValue": float, "intValue": str}


@dataclass(frozen=True)
class Seen:
    """One span, checked; times in ns."""

    service: str
    instance: str
    trace: str
    id: str
    parent: str
    name: str
    kind: str
    begin: int
    end: int
    values: dict
    is_error: bool
    state: str

    @property
    def ms(self):
        return (self.end - self.begin) / 1e6


class Collector:
    """`script` gives (status, body) for the n-th request, None: 200; `seen` are all spans of those answered 200."""

    def __init__(self, script=None):
        self.seen, self.bodies, self.headers, self.faults = [], [], [], []
        self.num_asked, self.script = 0, script or (lambda _number: None)
        self.lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status, said = collector.take(self.path, dict(self.headers.items()), body)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def take(self, path, headers, body):
        with self.lock:
            self.num_asked += 1
            scripted = self.script(self.num_asked)
            status, said = scripted or (200, b"{}")
            if status != 200:
                return status, said
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            try:
                assert path == "/v1/traces", path
                self.seen += spans_of(body)
            except (AssertionError, KeyError, ValueError, TypeError) as error:
                self.faults.append(repr(error))
                return 400, b"{}"
            return status, said

    def of(self, trace):
        """The spans of one trace so far."""
        with self.lock:
            assert not self.faults, self.faults
            return [span for span in self.seen if span.trace == trace]


def spans_of(body):
    """The spans of one request. Raises AssertionError, KeyError for what is not OTLP's JSON."""
    found = []
    for resource in json.loads(body)["resourceSpans"]:
        about = values_of(resource["resource"]["attributes"])
        for scope in resource["scopeSpans"]:
            assert scope["scope"]["name"]
            found += [span_of(each, about) for each in scope["spans"]]
    return found


def span_of(value, about):
    for name, length in (
        ("traceId", 32),
        ("spanId", 16),
        *([("parentSpanId", 16)] if "parentSpanId" in value else []),
    ):
        assert re.fullmatch(f"[0-9a-f]{{{length}}}", value[name]), (name, value[name])
        assert int(value[name], 16), name
    for name in ("startTimeUnixNano", "endTimeUnixNano"):
        assert isinstance(value[name], str), name
    begin, end = int(value["startTimeUnixNano"]), int(value["endTimeUnixNano"])
    assert begin <= end, value
    status = value.get("status", {})
    assert status in ({}, {"code": 2}), status
    return Seen(
        about["service.name"],
        about["service.instance.id"],
        value["traceId"],
        value["spanId"],
        value.get("parentSpanId", ""),
        value["name"],
        KINDS[value["kind"]],
        begin,
        end,
        values_of(value["attributes"]),
        bool(status),
        value.get("traceState", ""),
    )


def values_of(listed):
    found = {}
    for each in listed:
        ((kind, value),) = each["value"].items()
        assert isinstance(value, VALUES[kind]), each
        assert each["key"] not in found, each
        found[each["key"]] = int(value) if kind == "intValue" else value
    return found


def children(spans):
    """Spans by the id of their parent."""
    found = defaultdict(list)
    for span in spans:
        found[span.parent].append(span)
    return found
