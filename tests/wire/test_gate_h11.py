"""A second opinion: what our gate accepts, h11 must read as the same message."""

import h11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.evidence import count
from tests.wire.test_gate import CHUNKED, GET, POST, drive
from wire.http.http1 import RequestGate
from wire.refused.refusal import Refusal

TOKEN = st.text("abcXYZ09-_!~", min_size=1, max_size=8)
VALUE = st.text("abc ,;=\"'/\t09", max_size=12)
HEADER = st.tuples(TOKEN, st.sampled_from([": ", ":", ":\t", " : "]), VALUE).map("".join)
FRAMING = st.sampled_from(
    [
        "Content-Length: 5",
        "Content-Length: 05",
        "content-length: 5\r\nContent-Length: 5",
        "Transfer-Encoding: chunked",
        "transfer-encoding: Chunked",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Expect: 100-continue",
        "A: b",
    ]
)
BODY = st.sampled_from(
    [b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n", b""]
)
EOL = st.sampled_from(["\r\n"] * 8 + ["\n", "\r"])
REQUEST = st.builds(
    lambda method, target, version, headers, framing, eol, body: (
        eol.join([f"{method} {target} {version}", "Host: h", *headers, framing, "", ""]).encode() + body
    ),
    st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "BREW"]),
    st.sampled_from(["/", "/v1/x?y=%2f", "/a;b", "*", "/a b", "http://h/", "http://i/"]),
    st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2.0"]),
    st.lists(HEADER, max_size=4),
    FRAMING,
    EOL,
    BODY,
)


@st.composite
def mutated(draw):
    """A good stream with one to three bytes changed, removed or doubled."""
    data = bytearray(draw(st.sampled_from([GET, POST, CHUNKED])))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["change", "remove", "double"]))
        if kind == "change":
            data[at] = draw(st.sampled_from(b"\r\n\0 :,;0a\x7f\xff"))
        elif kind == "remove":
            del data[at]
        else:
            data[at:at] = data[at : at + 1]
    return bytes(data)


def first_by_h11(stream: bytes) -> tuple[bytes, bytes, list, bytes, bool]:
    """(method, target, headers, body, ended) of the first message."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(stream)
    head = connection.next_event()
    assert isinstance(head, h11.Request), head
    body, ended = b"", False
    while not ended:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            ended = True
        else:
            break
    return head.method, head.target, list(head.headers), body, ended


def check(stream: bytes) -> None:
    try:
        messages = drive(RequestGate(), [stream])
    except Refusal:
        return
    if not messages:
        return
    head, body, ended = messages[0]
    method, target, headers, other_body, other_ended = first_by_h11(stream)

    # h11 leaves the scheme and host of an absolute form to its user
    assert (head.method.encode(), head.target.encode()) == (method, target.removeprefix(b"http://h"))
    ours = [(name.encode(), value.encode("latin-1")) for name, value in head.headers]
    # h11 lower-cases the coding's name and cuts nothing else
    assert [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in ours] == headers
    assert (body, ended) == (other_body, other_ended)


@settings(max_examples=count(100, 20_000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(REQUEST)
def test_h11_agrees_on_what_we_accept(stream):
    check(stream)


@settings(max_examples=count(100, 20_000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_h11_agrees_on_mutations(stream):
    check(stream)
