"""The gate: the same events wherever the bytes are cut, and a fixed refusal for everything odd."""

import pytest

from wire.http.http1 import Body, End, Message, RequestGate, RequestHead, request_head_bytes
from wire.http.limits import DEFAULT_LIMITS, Limits
from wire.refused.refusal import Refusal

GET = b"GET /v1/models?limit=2 HTTP/1.1\r\nHost: a.example:8443\r\nAccept: */*\r\n\r\n"
POST = b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"PUT /v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;note=x\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
)
EXPECT = b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\nabc"


def drive(gate: RequestGate, parts: list[bytes]) -> list[tuple]:
    """Feed parts; [(head, body, ended)] of every message."""
    messages: list[tuple] = []

    def take(events):
        for event in events:
            if isinstance(event, Message):
                messages.append([event.head, event.body, True])
                take(gate.next_message())
            elif isinstance(event, RequestHead):
                messages.append([event, b"", False])
            elif isinstance(event, Body):
                assert event.data
                messages[-1][1] += event.data
            else:
                assert isinstance(event, End)
                messages[-1][2] = True
                take(gate.next_message())

    for part in parts:
        take(gate.receive(part))
    return [tuple(message) for message in messages]


@pytest.mark.parametrize(
    "stream", [GET, POST, CHUNKED, EXPECT, GET + POST, CHUNKED + GET, POST + CHUNKED + POST]
)
def test_every_cut_gives_the_same_messages(stream):
    whole = drive(RequestGate(), [stream])

    assert all(ended for _, _, ended in whole)
    for cut in range(1, len(stream)):
        assert drive(RequestGate(), [stream[:cut], stream[cut:]]) == whole
    assert drive(RequestGate(), [stream[i : i + 1] for i in range(len(stream))]) == whole


@pytest.mark.parametrize("form", ["http://a.example:8443", "https://A.example:8443"])
def test_the_absolute_form_of_ones_own_host_is_its_path(form):
    """RFC 9112 3.2.2: a server must take it; what is behind us sees a path, whichever form was sent."""
    sent = GET.replace(b"GET /", f"GET {form}/".encode())

    assert drive(RequestGate(), [sent]) == drive(RequestGate(), [GET])


def test_a_head_is_read_as_sent():
    [(head, body, ended)] = drive(RequestGate(), [GET])

    assert (head.method, head.target, head.path, head.query) == (
        "GET",
        "/v1/models?limit=2",
        "/v1/models",
        "limit=2",
    )
    assert head.headers == (("host", "a.example:8443"), ("accept", "*/*"))
    assert head.get("accept") == "*/*"
    assert head.get("absent") is None
    assert head.keep_alive
    assert (head.content_length, head.chunked, head.expect_continue) == (None, False, False)
    assert (body, ended) == (b"", True)


def test_bodies_are_framed():
    [(post, text, _)] = drive(RequestGate(), [POST])
    [(chunked, same_text, _)] = drive(RequestGate(), [CHUNKED])
    [(expect, _, _)] = drive(RequestGate(), [EXPECT])

    assert (post.content_length, text) == (11, b"hello world")
    assert (chunked.chunked, chunked.content_length, same_text) == (True, None, b"hello world")
    assert expect.expect_continue


def test_http_10_and_close_do_not_keep_the_connection():
    [(old, _, _)] = drive(RequestGate(), [b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n"])
    [(close, _, _)] = drive(RequestGate(), [b"GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n"])

    assert not old.keep_alive
    assert not close.keep_alive


def request(
    *lines: str, line: str = "POST /v1/x HTTP/1.1", host: str | None = "h", body: bytes = b""
) -> bytes:
    headers = ([] if host is None else [f"Host: {host}"]) + list(lines)
    return "\r\n".join([line, *headers, "", ""]).encode("latin-1") + body


def chunks(body: bytes, *lines: str) -> bytes:
    return request("Transfer-Encoding: chunked", *lines, body=body)


REFUSED = {
    # smuggling: two readings of where the message ends
    "length and chunked": (
        400,
        request("Content-Length: 3", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    "chunked and length": (
        400,
        request("Transfer-Encoding: chunked", "Content-Length: 3", body=b"0\r\n\r\n"),
    ),
    "two equal lengths": (400, request("Content-Length: 3", "Content-Length: 3", body=b"abc")),
    "two lengths": (400, request("Content-Length: 3", "Content-Length: 4", body=b"abcd")),
    "length list": (400, request("Content-Length: 0, 0")),
    "length +5": (400, request("Content-Length: +5", body=b"abcde")),
    "length -1": (400, request("Content-Length: -1")),
    "length 0x1": (400, request("Content-Length: 0x1", body=b"a")),
    "length 5 5": (400, request("Content-Length: 5 5", body=b"abcde")),
    "length empty": (400, request("Content-Length: ")),
    "length of 1000 digits": (400, request("Content-Length: " + "1" * 1000)),
    "length of 16 digits": (400, request("Content-Length: " + "1" * 16)),
    "coding list with empty": (400, request("Transfer-Encoding: ,chunked", body=b"0\r\n\r\n")),
    "coding xchunked": (400, request("Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "coding identity": (400, request("Transfer-Encoding: identity")),
    "coding gzip, chunked": (400, request("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "coding twice": (
        400,
        request("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    "coding quoted": (400, request('Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    "coding with tab": (400, request("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n")),
    "coding on 1.0": (400, request("Transfer-Encoding: chunked", line="POST / HTTP/1.0", body=b"0\r\n\r\n")),
    "connection names the length": (
        400,
        request("Connection: close, Content-Length", "Content-Length: 3", body=b"abc"),
    ),
    "connection names the coding": (
        400,
        request("Connection: Transfer-Encoding", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    "connection names the host": (400, request("Connection: keep-alive", "Connection: hOst")),
    "connection names the key": (400, request("Connection: authorization", "Authorization: Bearer a")),
    "two keys": (400, request("Authorization: Bearer a", "Authorization: Bearer b")),
    "two types": (400, request("Content-Type: a/b", "content-type: a/b")),
    "underscore name": (400, request("Content_Length: 3")),
    # lines
    "bare LF": (400, b"GET / HTTP/1.1\nHost: h\n\n"),
    "bare LF in one line": (400, b"GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n"),
    "bare CR": (400, b"GET / HTTP/1.1\r\nHost: h\r\nA: b\rC: d\r\n\r\n"),
    "obs-fold": (400, request("A: b", " c")),
    "space before colon": (400, request("A : b")),
    "space first": (400, request(" A: b")),
    "no colon": (400, request("Abc")),
    "empty name": (400, request(": b")),
    "NUL in a value": (400, request("A: b\0c")),
    "non-ASCII value": (400, request("A: caf\xe9")),
    "non-ASCII name": (400, request("caf\xe9: 1")),
    "blank line first": (400, b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    # host
    "no host": (400, request(host=None)),
    "two hosts": (400, request("Host: h")),
    "host list": (400, request(host="a, b")),
    "host with user and path": (400, request(host="a@b/../c")),
    "host empty": (400, request(host="")),
    "host with a long port": (400, request(host="h:123456")),
    # targets
    "absolute form": (400, request(line="GET http://other/ HTTP/1.1")),
    "absolute form of another port": (400, request(line="GET http://h:81/ HTTP/1.1", host="h:80")),
    "absolute form with a user": (400, request(line="GET http://a@h/ HTTP/1.1")),
    "absolute form without a path": (400, request(line="GET http://h HTTP/1.1")),
    "absolute form of another scheme": (400, request(line="GET ftp://h/ HTTP/1.1")),
    "absolute form with dots": (400, request(line="GET http://h/a/../b HTTP/1.1")),
    "absolute form, no host": (400, request(line="GET http://h/ HTTP/1.1", host=None)),
    "authority form": (400, request(line="GET other:80 HTTP/1.1")),
    "asterisk": (400, request(line="OPTIONS * HTTP/1.1")),
    "fragment": (400, request(line="GET /a#b HTTP/1.1")),
    "high byte": (400, request(line="GET /caf\xe9 HTTP/1.1")),
    "space in the target": (400, request(line="GET /a b HTTP/1.1")),
    "encoded slash": (400, request(line="GET /a%2Fb HTTP/1.1")),
    "encoded dots": (400, request(line="GET /a/%2e%2E/b HTTP/1.1")),
    "encoded NUL": (400, request(line="GET /a%00 HTTP/1.1")),
    "dot segment": (400, request(line="GET /a/../b HTTP/1.1")),
    "dot segment at the end": (400, request(line="GET /a/.. HTTP/1.1")),
    "empty segment": (400, request(line="GET //a HTTP/1.1")),
    "backslash": (400, request(line="GET /a\\b HTTP/1.1")),
    # sizes
    "500 headers": (431, request(*[f"A{i}: b" for i in range(500)])),
    "1 MiB header in one read": (431, request("A: " + "b" * 2**20)),
    "long target": (414, request(line="GET /" + "a" * 5000 + " HTTP/1.1")),
    "9 KB chunk extension": (400, chunks(b"1;" + b"a" * 9000 + b"\r\nx\r\n0\r\n\r\n")),
    # methods, versions, hopes
    "CONNECT": (405, request(line="CONNECT a:80 HTTP/1.1")),
    "TRACE": (405, request(line="TRACE / HTTP/1.1")),
    "unknown method": (501, request(line="BREW /pot HTTP/1.1")),
    "lower-case method": (501, request(line="get / HTTP/1.1")),
    "upgrade": (405, request("Connection: upgrade", "Upgrade: websocket", line="GET / HTTP/1.1")),
    "upgrade alone": (405, request("Upgrade: h2c", line="GET / HTTP/1.1")),
    "HTTP/2 preface": (501, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.2": (505, request(line="GET / HTTP/1.2")),
    "HTTP/2.0": (505, request(line="GET / HTTP/2.0")),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "two spaces": (400, request(line="GET  / HTTP/1.1")),
    "space at the end of the line": (400, request(line="GET / HTTP/1.1 ")),
    "odd expectation": (417, request("Expect: 200-ok", "Content-Length: 1")),
    "two expectations": (400, request("Expect: 100-continue", "Expect: 100-continue", "Content-Length: 1")),
    # chunks
    "chunk size 0x": (400, chunks(b"0x1\r\na\r\n0\r\n\r\n")),
    "chunk size -1": (400, chunks(b"-1\r\n")),
    "chunk size empty": (400, chunks(b"\r\n\r\n")),
    "chunk size too long": (400, chunks(b"1" * 16 + b"\r\n")),
    "chunk end missing": (400, chunks(b"1\r\naXX0\r\n\r\n")),
    "chunk end LF": (400, chunks(b"1\r\na\n0\r\n\r\n")),
    "LF after chunk size": (400, chunks(b"1\na\r\n0\r\n\r\n")),
    "LF in chunk extension": (400, chunks(b"1;a\nb\r\na\r\n0\r\n\r\n")),
    "chunk line that never ends": (400, chunks(b"1;" + b"a" * 300)),
    "chunk line of LF alone": (400, chunks(b"1\n")),
    "trailer that never ends": (400, chunks(b"0\r\nA: " + b"b" * 300)),
    "space before chunk size": (400, chunks(b" 1\r\na\r\n0\r\n\r\n")),
    "much extension": (
        400,
        chunks(b"1;" + b"a" * 200 + b"\r\nx\r\n") + b"".join([b"1;%b\r\nx\r\n" % (b"a" * 200)] * 20),
    ),
    "tiny chunks": (400, chunks(b"1\r\na\r\n" * 10_000)),
    "trailer content-length": (400, chunks(b"0\r\nContent-Length: 5\r\n\r\n")),
    "trailer without colon": (400, chunks(b"0\r\nabc\r\n\r\n")),
    "trailers too long": (400, chunks(b"0\r\n" + b"A: b\r\n" * 2000 + b"\r\n")),
}


def refusal_of(parts: list[bytes], limits: Limits = DEFAULT_LIMITS) -> int | None:
    try:
        drive(RequestGate(limits), parts)
    except Refusal as refusal:
        return refusal.status
    return None


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    status, stream = REFUSED[name]

    assert refusal_of([stream]) == status


@pytest.mark.parametrize("name", [name for name in REFUSED if len(REFUSED[name][1]) < 3000])
def test_refused_byte_by_byte(name):
    stream = REFUSED[name][1]

    assert refusal_of([stream[i : i + 1] for i in range(len(stream))]) in {400, 405, 414, 417, 431, 501, 505}


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_a_target_may_be_as_long_as_is_said_whatever_its_method(method):
    limits = Limits(target_bytes=10)

    assert refusal_of([request(line=f"{method} /{'a' * 9} HTTP/1.1")], limits) is None
    assert refusal_of([request(line=f"{method} /{'a' * 10} HTTP/1.1")], limits) == 414


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/a b", ()),
        ("GET", "a", ()),
        ("GET", "/a\r\nX: y", ()),
        ("get", "/a", ()),
        ("CONNECT", "/a", ()),
        ("GET", "/a", (("x", "y\r\nz: 1"),)),
        ("GET", "/a", (("x", "y\n"),)),
        ("GET", "/a", (("x", "y\0"),)),
    ],
)
def test_a_head_that_would_break_the_framing_is_not_written(method, target, headers):
    with pytest.raises(ValueError, match=r"the method or target|a line end"):
        request_head_bytes(method, target, headers)


def test_s3_listeners_take_any_path_byte():
    limits = Limits(encoded_paths=True)
    target = "/models/a%2Fb//%00/../c%2e?x=%2F"
    [(head, _, _)] = drive(RequestGate(limits), [request(line=f"GET {target} HTTP/1.1")])

    assert head.target == target
    assert refusal_of([request(line="GET /a#b HTTP/1.1")], limits) == 400


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v1/models/a%2Fb", None),
        ("/v1/models/a%2fb", None),
        ("/v1/other/a%2Fb", 400),
        ("/v1/models/%2Fa", 400),
        ("/v1/models/a%2F..%2Fb", 400),
        ("/v1/models/a%2F%2e%2e", 400),
    ],
)
def test_an_encoded_slash_is_a_slash_where_it_is_allowed(target, status):
    limits = Limits(slash_prefixes=("/v1/models/",))

    assert refusal_of([request(line=f"GET {target} HTTP/1.1")], limits) == status


def test_user_metadata_may_hold_underscores():
    assert refusal_of([request("x-amz-meta-my_key: 1")]) is None


def test_served_hosts():
    limits = Limits(served_hosts=frozenset({"api.example", "::1"}))

    assert refusal_of([request(host="API.example:8443")], limits) is None
    assert refusal_of([request(host="[::1]:8443")], limits) is None
    assert refusal_of([request(host="evil.example")], limits) == 400


@pytest.mark.parametrize(("extra", "status"), [(0, None), (1, 431)])
def test_head_limit_is_exact(extra, status):
    bare = len(request("A: "))
    stream = request("A: " + "b" * (16 * 1024 - bare + extra))

    assert refusal_of([stream]) == status


@pytest.mark.parametrize(("num", "status"), [(63, None), (64, 431)])
def test_header_count_is_exact(num, status):
    assert refusal_of([request(*["A: b"] * num)]) == status  # and one Host


@pytest.mark.parametrize(("length", "status"), [(4096, None), (4097, 414)])
def test_target_limit_is_exact(length, status):
    assert refusal_of([request(line="GET /" + "a" * (length - 1) + " HTTP/1.1")]) == status


def test_a_pipelined_request_waits_for_its_turn():
    gate = RequestGate()
    first = gate.receive(POST + GET + POST[:20])

    assert [type(event) for event in first] == [RequestHead, Body, End]
    assert gate.num_waiting_bytes == len(GET) + 20
    assert gate.receive(POST[20:]) == []
    assert [type(event) for event in gate.next_message()] == [RequestHead, End]
    assert [type(event) for event in gate.next_message()] == [Message]
    assert gate.next_message() == []
    assert gate.num_waiting_bytes == 0
