"""Well-formed requests, as odd as clients may write them: the material of every attack and of the cuts."""

import random

from wire.http.framing import LAST_CHUNK

_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
_TARGETS = (
    "/",
    "/v1/chat/completions",
    "/v1/models?limit=2&after=%2F",
    "/models/acme/m/shard-00001.safetensors?partNumber=3&uploadId=x%3D",
    "/a;b=c/d,e/~f!$&'()*+:@?/?x=?",
)
_FIELDS = (
    "Accept: */*",
    "accept-encoding:identity",
    "Authorization: Bearer nf-user-key",
    "User-Agent: \t an agent (1.0; x)\t ",
    "X-Empty:",
    'x-amz-meta-my_key: a,b;c="d"',
    "X-Forwarded-For: 10.0.0.1, 10.0.0.2",
    "Content-Type: application/json",
    "Keep-Alive: timeout=5",
    "TE: trailers",
    "!#$%&'*+-.^`|~9: token",
    "Accept: text/html",
)
_CONNECTIONS = ("keep-alive", "Keep-Alive, x-empty", "TE", "close")
_TEXT = bytes(range(256)) * 2


def request(rng: random.Random) -> bytes:
    """One request: any method, target, headers, and one of the framings of a body."""
    target, host = rng.choice(_TARGETS), rng.choice(("h", "api.example:8443", "[::1]:80", "10.0.0.1"))
    if rng.random() < 0.1:
        target = f"http://{host}{target}"
    lines = [f"{rng.choice(_METHODS)} {target} HTTP/1.{int(rng.random() < 0.95)}", f"Host: {host}"]
    lines += rng.sample(_FIELDS, rng.randrange(5))
    if rng.random() < 0.1:
        lines.append(f"Connection: {rng.choice(_CONNECTIONS)}")
    framing, body = _body(rng, is_11=lines[0].endswith("1"))
    at = rng.randrange(1, len(lines) + 1)
    lines[at:at] = framing
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def stream(rng: random.Random) -> bytes:
    """One to three requests, one after the other on one connection."""
    return b"".join(request(rng) for _ in range(rng.choice((1, 1, 1, 2, 3))))


def _body(rng: random.Random, *, is_11: bool) -> tuple[list[str], bytes]:
    kind = rng.randrange(4)
    if kind == 0:
        return [], b""
    start = rng.randrange(256)
    body = _TEXT[start : start + rng.choice((0, 1, 5, 16, 200))]
    expects = ["Expect: 100-continue"] if rng.random() < 0.1 else []
    if kind == 1 and is_11:
        return ["Transfer-Encoding: chunked", *expects], _chunked(rng, body)
    return [f"Content-Length: {len(body)}", *expects], body


def _chunked(rng: random.Random, body: bytes) -> bytes:
    said = []
    while body:
        size = rng.choice((1, 3, 16, len(body)))
        extension = rng.choice((b"", b"", b";a", b";a=b", b';a="b;c"'))
        said.append(b"%0*x%b\r\n%b\r\n" % (rng.choice((1, 1, 4)), len(body[:size]), extension, body[:size]))
        body = body[size:]
    trailers = rng.choice((b"", b"", b"X-Sum: 1\r\n", b"A: b\r\nC:\r\n"))
    return b"".join(said) + LAST_CHUNK[:-2] + trailers + b"\r\n"
