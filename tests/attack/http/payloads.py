"""The known ways to have two servers read one stream of bytes as different requests, by class.

Each class is a way of saying one thing so that some parser hears another; the classes are those of the public
collections (the HTTP Garden's trophies, smuggler's gadgets, HTTP Request Smuggler's permutations, the papers they
name), the bytes are made here. What a payload hides is a request to HIDDEN.
"""

from collections.abc import Iterator

HIDDEN = b"/hidden"
_NEXT = b"GET " + HIDDEN + b" HTTP/1.1\r\nHost: h\r\n\r\n"
_CHUNKS = b"0\r\n\r\n"
_ODD_BYTES = tuple(bytes([n]) for n in (*range(0x21), *range(0x7F, 0x100)))
_TE, _CL = b"Transfer-Encoding", b"Content-Length"

Named = Iterator[tuple[str, bytes]]


def payloads() -> dict[str, bytes]:
    """Every payload by name."""
    made: dict[str, bytes] = {}
    for family in (
        _codings,
        _lengths,
        _both,
        _chunks,
        _lines,
        _odd_bytes,
        _targets,
        _hosts,
        _hops,
        _starts,
        _empties,
    ):
        for name, data in family():
            key = f"{family.__name__[1:]}: {name}"
            assert key not in made, key
            made[key] = data
    return made


def _post(
    *lines: bytes, body: bytes = _CHUNKS + _NEXT, first: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: h"
) -> bytes:
    return b"\r\n".join([first, *([host] if host else []), *lines, b"", b""]) + body


def _name_forms(name: bytes, value: bytes) -> Named:
    """One header line, as some parser takes it for `name: value` and another does not."""
    left, right = name.split(b"-")
    line = name + b": " + value
    yield "plain", line
    yield "no space", name + b":" + value
    yield "two spaces", name + b":  " + value
    yield "tab", name + b":\t" + value
    yield "space before the colon", name + b" : " + value
    yield "tab before the colon", name + b"\t: " + value
    yield "word before the colon", name + b" x: " + value
    yield "space for the hyphen", left + b" " + right + b": " + value
    yield "underscore for the hyphen", left + b"_" + right + b": " + value
    yield "backslash for the hyphen", left + b"\\" + right + b": " + value
    yield "encoded letter", left + b"-%" + b"%02x" % right[0] + right[1:] + b": " + value
    yield "upper case", name.upper() + b": " + value.upper()
    yield "mixed case", name.swapcase() + b": " + value.swapcase()
    yield "space first", b" " + line
    yield "tab first", b"\t" + line
    yield "folded into another", b"A: b\r\n " + line
    yield "folded by a tab", b"A: b\r\n\t" + line
    yield "folded value", name + b":\r\n " + value
    yield "folded twice", name + b":\r\n \r\n " + value
    yield "LF before the value", name + b":\n " + value
    yield "LF before the colon", name + b"\n: " + value
    yield "after a bare CR", b"A: b\r" + line
    yield "after a bare LF", b"A: b\n" + line
    yield "after LF LF", b"A: b\n\n" + line
    yield "after CR LF CR", b"A: b\r\n\r" + line
    yield "CR inside the name", left[:3] + b"\r" + left[3:] + b"-" + right + b": " + value
    yield "CR at the end", line + b"\r"
    yield "tab at the end", line + b"\t"
    yield "NUL at the end", line + b"\0"
    yield "quoted", name + b': "' + value + b'"'
    yield "apostrophes", name + b": '" + value + b"'"
    yield "encoded word", name + b": =?utf-8?q?" + value + b"?="
    yield "pseudo-header", b":" + name.lower() + b": " + value
    yield "empty name before", b": x\r\n" + line
    yield "no colon", name + b" " + value
    yield "named by Connection", b"Connection: " + name + b"\r\n" + line
    yield "bytes of a double-width colon", name + b"\xef\xbc\x9a " + value


def _codings() -> Named:
    """The coding is seen by one and not by the other, who goes by the length."""
    for how, line in _name_forms(_TE, b"chunked"):
        yield how, _post(b"Content-Length: 4", line)
        yield f"{how}, alone", _post(line)
        yield f"{how}, before the length", _post(line, b"Content-Length: 4")
    values = (
        b"chunk",
        b"chunked, cow",
        b"cow, chunked",
        b"cow chunked bar",
        b"identity",
        b"identity, chunked",
        b"chunked, identity",
    )
    values += (
        b"chunked, chunked",
        b",chunked",
        b"chunked,",
        b", ,chunked",
        b"gzip, chunked",
        b"x",
        b"",
        b"chunked;q=1",
        b"chunked chunked",
    )
    values += (
        b"identity, chunked, identity",
        b"\x0bchunked",
        b"\x0cchunked",
        b"CHUNKED",
        b"cHuNkEd",
        b"ch\x96nked",
        b"(chunked)",
        b"chunked\\",
    )
    for value in values:
        yield f"value {value!r}", _post(_TE + b": " + value)
        yield f"value {value!r} and a length", _post(b"Content-Length: 4", _TE + b": " + value)
    for one, two in (
        (b"chunked", b"chunked"),
        (b"cow", b"chunked"),
        (b"chunked", b"cow"),
        (b"identity", b"chunked"),
        (b"chunked", b"identity"),
        (b"", b"chunked"),
    ):
        yield f"twice {one!r} {two!r}", _post(_TE + b": " + one, _TE.lower() + b": " + two)
    yield "on HTTP/1.0", _post(_TE + b": chunked", first=b"POST / HTTP/1.0")
    yield "on HTTP/1.0 kept", _post(_TE + b": chunked", b"Connection: keep-alive", first=b"POST / HTTP/1.0")
    yield "in Content-Encoding", _post(b"Content-Encoding: chunked", b"Content-Length: 5")
    yield "in a trailer", _post(_TE + b": chunked", body=b"0\r\n" + _TE + b": chunked\r\n\r\n" + _NEXT)
    yield "TE for it", _post(b"TE: chunked")
    yield "Trailer names it", _post(b"Trailer: Transfer-Encoding", _TE + b": chunked")


def _lengths() -> Named:
    """The length is another number for the other."""
    for how, line in _name_forms(_CL, b"5"):
        yield how, _post(line)
        yield f"{how}, after another", _post(b"Content-Length: 0", line)
    values = (
        b"+5",
        b"-5",
        b"0x5",
        b"5_0",
        b"05",
        b"00000000000000005",
        b"5.0",
        b"5e0",
        b"5,",
        b",5",
        b"5, 5",
        b"5,0",
        b"0, 5",
        b"5 0",
        b"5;0",
    )
    values += (
        b"",
        b" ",
        b"5\t5",
        b"5\0",
        b"\x0b5",
        b"0b101",
        b"0o5",
        b"5a",
        b"a",
        b"(5)",
        b'"5"',
        b"\xd9\xa5",
        b"\xb2",
        b"1" * 16,
        b"1" * 400,
    )
    values += (
        b"18446744073709551621",
        b"9223372036854775813",
        b"4294967301",
        b"-0",
        b"+0",
        b"--5",
        b"5-",
        b"infinity",
        b"nan",
        b"5\xa0",
        b"5\x0c",
    )
    for value in values:
        yield f"value {value!r}", _post(_CL + b": " + value)
    for one, two in ((b"5", b"5"), (b"5", b"0"), (b"0", b"5"), (b"5", b"05"), (b"", b"5"), (b"5", b"x")):
        yield f"twice {one!r} {two!r}", _post(_CL + b": " + one, _CL.lower() + b": " + two)
    for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH"):
        yield (
            f"a body of {method!r}",
            _post(b"Content-Length: %d" % len(_NEXT), first=method + b" / HTTP/1.1", body=_NEXT),
        )
        yield f"a chunked body of {method!r}", _post(_TE + b": chunked", first=method + b" / HTTP/1.1")
    yield "in a trailer", _post(_TE + b": chunked", body=b"0\r\nContent-Length: 5\r\n\r\n" + _NEXT)
    yield "none", _post(body=_NEXT)
    yield "too much sent", _post(b"Content-Length: 0", body=_NEXT)


def _both() -> Named:
    for order in ((b"Content-Length: 4", _TE + b": chunked"), (_TE + b": chunked", b"Content-Length: 4")):
        for body in (
            b"0\r\n\r\n" + _NEXT,
            b"5c\r\n" + _NEXT.ljust(0x5C, b"x") + b"\r\n0\r\n\r\n",
            b"",
            b"abcd",
        ):
            yield f"{order[0][:1]!r} {body[:4]!r}", _post(*order, body=body)
    for expect in (
        b"100-continue",
        b"100-Continue",
        b"x 100-continue",
        b"100-continue, x",
        b"",
        b"100",
        b"y",
    ):
        yield (
            f"Expect {expect!r}",
            _post(b"Content-Length: %d" % len(_NEXT), b"Expect: " + expect, body=_NEXT),
        )
        yield f"Expect {expect!r} and none", _post(b"Expect: " + expect, body=_NEXT)
        yield f"Expect {expect!r} chunked", _post(_TE + b": chunked", b"Expect: " + expect)
    yield "Expect, folded", _post(b"Expect:\r\n 100-continue", b"Content-Length: 5", body=_CHUNKS)
    yield (
        "Expect twice",
        _post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 5", body=_CHUNKS),
    )


def _chunks() -> Named:
    """The chunk ends elsewhere for the other."""
    for size in (
        b"0x5",
        b"0X5",
        b"+5",
        b"-5",
        b"5_",
        b"0_5",
        b" 5",
        b"5 ",
        b"\t5",
        b"5\t",
        b"05",
        b"0000000000000005",
        b"5h",
        b"5.",
        b"",
        b"g",
        b"5;",
        b"5;;",
        b"5 ;a",
    ):
        yield f"size {size!r}", _chunked(size + b"\r\nabcde\r\n0\r\n\r\n")
    for size in (
        b"100000000000000005",
        b"ffffffffffffffff",
        b"fffffffffffffffb",
        b"80000000",
        b"7fffffffffffffff",
        b"-1",
        b"\xd9\xa5",
        b"5\0",
        b"\x005",
        b"5\x0b",
    ):
        yield f"size {size!r}", _chunked(size + b"\r\nabcde\r\n0\r\n\r\n")
    for end in (
        b"\n",
        b"\r",
        b"\r\r\n",
        b"\n\r",
        b"",
        b"XX",
        b"\r\nX",
        b"\r\n\r\n",
        b"\0\r\n",
        b" \r\n",
        b"\r \n",
    ):
        yield f"end of data {end!r}", _chunked(b"5\r\nabcde" + end + b"0\r\n\r\n")
        yield f"end of size {end!r}", _chunked(b"5" + end + b"abcde\r\n0\r\n\r\n")
        yield f"end of the last {end!r}", _chunked(b"5\r\nabcde\r\n0" + end + b"\r\n")
        yield f"end of all {end!r}", _chunked(b"5\r\nabcde\r\n0\r\n" + end)
        yield f"extension {end!r}", _chunked(b"5;a" + end + b"b\r\nabcde\r\n0\r\n\r\n")
        yield f"extension quoted {end!r}", _chunked(b'5;a="b' + end + b'c"\r\nabcde\r\n0\r\n\r\n')
        yield f"trailer {end!r}", _chunked(b"0\r\nA: b" + end + b"C: d\r\n\r\n")
    for extension in (
        b";\nxx",
        b";a=\r\nb",
        b";" + b"a" * 300,
        b" ;a=b",
        b";a=b;c",
        b';"',
        b";\x80",
        b";a=\0",
        b"\\;a",
        b";a\tb",
        b";\x7f",
    ):
        yield f"extension {extension!r}"[:40], _chunked(b"5" + extension + b"\r\nabcde\r\n0\r\n\r\n")
    yield "the last one's extension", _chunked(b"5\r\nabcde\r\n0;a=b\r\n\r\n")
    yield "zeros", _chunked(b"5\r\nabcde\r\n000\r\n\r\n")
    yield "too short", _chunked(b"4\r\nabcde\r\n0\r\n\r\n")
    yield "too long", _chunked(b"6\r\nabcde\r\n0\r\n\r\n")
    yield "a request for the last", _chunked(b"5\r\nabcde\r\n" + _NEXT)
    yield "two ends", _chunked(b"0\r\n\r\n0\r\n\r\n")
    for field in (
        b"Host: x",
        b"Connection: close",
        b"Authorization: a",
        b"A b",
        b" A: b",
        b"A : b",
        b": b",
        b"A: \0",
        b"A: \xff",
        b"a_b: c",
    ):
        yield f"trailer {field!r}", _chunked(b"0\r\n" + field + b"\r\n\r\n")


def _chunked(body: bytes) -> bytes:
    return _post(_TE + b": chunked", body=body + _NEXT)


def _lines() -> Named:
    """The head ends elsewhere for the other, or the request line is another."""
    good = _post(b"A: b", body=_NEXT)
    for end in (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0\r\n", b" \r\n", b"\x85", b"\x0b\r\n"):
        yield f"all ends {end!r}", good.replace(b"\r\n", end)
        for num in range(1, 5):
            parts = good.split(b"\r\n")
            yield f"end {num} {end!r}", b"\r\n".join(parts[:num]) + end + b"\r\n".join(parts[num:])
    for version in (
        b"HTTP/1.2",
        b"HTTP/1.32",
        b"HTTP/1.10",
        b"HTTP/01.1",
        b"HTTP/2.0",
        b"HTTP/2",
        b"HTTP/0.9",
        b"HTTP/1",
        b"HTTP/1.",
        b"http/1.1",
        b"HTTP/1.1 x",
        b"HTTP/1,1",
        b"HTTP/+1.1",
        b"HTTPS/1.1",
        b"ICY/1.1",
        b"HTTP /1.1",
        b"",
        b"HTTP/1.1\t",
    ):
        yield f"version {version!r}", _post(first=b"GET / " + version, body=_NEXT)
    for method in (
        b"get",
        b"GE",
        b"GETX",
        b"G-ET",
        b'G="x"',
        b"",
        b"CONNECT",
        b"TRACE",
        b"PRI",
        b"GET\0",
        b"\0GET",
        b"GET,POST",
        b"M-SEARCH",
        b"SOURCE",
        b"PURGE",
        b"PROPFIND",
        b"LINK",
        b"QUERY",
    ):
        yield f"method {method!r}", _post(first=method + b" / HTTP/1.1", body=_NEXT)
    for between in (b"  ", b"\t", b"\x0b", b"\x0c", b"\r", b"\n", b"\0", b"\xa0", b""):
        yield f"after the method {between!r}", _post(first=b"GET" + between + b"/ HTTP/1.1", body=_NEXT)
        yield f"after the target {between!r}", _post(first=b"GET /" + between + b"HTTP/1.1", body=_NEXT)
    yield "0.9", b"GET /\r\n" + _NEXT
    yield "0.9 with a blank line", b"GET /\r\n\r\n" + _NEXT
    yield "no headers", b"GET / HTTP/1.1\r\n\r\n" + _NEXT
    yield "preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _NEXT
    yield "a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + _NEXT
    yield "a PROXY line", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + _NEXT
    yield "an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + _NEXT


def _odd_bytes() -> Named:
    """One byte that some parser skips, in each place of a line that frames."""
    for name, value, body in ((_TE, b"chunked", _CHUNKS), (_CL, b"5", _CHUNKS)):
        for odd in _ODD_BYTES:
            yield f"{name!r} {odd!r} first", _post(odd + name + b": " + value, body=body + _NEXT)
            yield f"{name!r} {odd!r} before the colon", _post(name + odd + b": " + value, body=body + _NEXT)
            yield f"{name!r} {odd!r} after the colon", _post(name + b":" + odd + value, body=body + _NEXT)
            yield f"{name!r} {odd!r} last", _post(name + b": " + value + odd, body=body + _NEXT)


def _targets() -> Named:
    for target in (
        b"*",
        b"h:80",
        b"http://h/",
        b"http://other/",
        b"HTTP://h/",
        b"https://h/",
        b"ftp://h/",
        b"http://a@h/",
        b"http://h",
        b"//h/",
        b"http:/h/",
        b"/a#b",
        b"!",
        b"a",
        b"",
        b"?a",
        b"/\x80",
        b"/%",
        b"/%zz",
        b"/%00",
        b"/%0d%0aHost:%20x",
        b"/..",
        b"/a/../b",
        b"/%2e%2e/",
        b"/\\a",
        b"/a//b",
        b"/;/a",
        b"/a|b",
        b'/"',
        b"/<>",
        b"/{}",
        b"/^`",
    ):
        yield repr(target), _post(first=b"GET " + target + b" HTTP/1.1", body=_NEXT)
    yield "long", _post(first=b"GET /" + b"a" * 9000 + b" HTTP/1.1", body=_NEXT)


def _hosts() -> Named:
    for host in (
        b"",
        b"Host:",
        b"Host: a, b",
        b"Host: h\r\nHost: h",
        b"Host: h\r\nhost: other",
        b"Host: a@h",
        b"Host: h/x",
        b"Host: h:80:80",
        b"Host: h:x",
        b"Host: h?x",
        b"Host: [::1",
        b"Host: h h",
        b"Host: h\0",
        b"Host : h",
        b" Host: h",
        b"Host:\th",
        b"Host: h\xff",
        b"Host: h#",
        b"Host: 127.1",
        b"Host: h.",
    ):
        yield repr(host), _post(host=host, body=_NEXT)


def _hops() -> Named:
    """A hop's own headers, and those that only our hops may say."""
    for line in (
        b"Connection: Host",
        b"Connection: content-length",
        b"Connection: close, Authorization",
        b"Connection: \x0bclose",
        b"Connection: close;x",
        b"Connection: X-Nearfield-Tenant",
        b"Connection: keep-alive, Upgrade",
        b"Proxy-Connection: close",
        b"Keep-Alive: 300",
        b"TE: trailers, chunked",
        b"Trailer: Content-Length",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Host: x",
        b"X-Forwarded-Proto: http",
        b"X-Tenant-Id: other",
        b"X-Nearfield-Tenant: other",
        b"x-nearfield-deadline-ms: 1",
        b"X-Forwarded-Prefix: /x",
    ):
        yield repr(line), _post(line, b"Content-Length: 5", body=_CHUNKS + _NEXT)
    for upgrade in (b"websocket", b"h2c", b"TLS/1.0", b"", b"x"):
        yield f"upgrade {upgrade!r}", _post(b"Connection: Upgrade", b"Upgrade: " + upgrade, body=_NEXT)
        yield f"upgrade {upgrade!r}, unannounced", _post(b"Upgrade: " + upgrade, body=_NEXT)
    yield "close, then more", _post(b"Connection: close", body=_NEXT)
    yield "HTTP/1.0, then more", _post(first=b"GET / HTTP/1.0", body=_NEXT)


def _starts() -> Named:
    """What comes before a request, or between two."""
    for start in (
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\0",
        b"\xef\xbb\xbf",
        b"X",
        b"\x0b",
        b"0\r\n\r\n",
    ):
        yield f"first {start!r}", start + _NEXT
        yield f"between {start!r}", _post(b"Content-Length: 0", body=start + _NEXT)
        yield f"after chunks {start!r}", _chunked(b"0\r\n\r\n" + start)


def _empties() -> Named:
    for line in (
        b":",
        b": a",
        b" ",
        b"\t",
        b"a",
        b"\0",
        b"a:b:c",
        b"a:",
        b"a;b",
        b"(a): b",
        b"a/b: c",
        b'"a": b',
        b"[a]: b",
        b"@: b",
        b"\x7f: b",
    ):
        yield repr(line), _post(line, b"Content-Length: 5", body=_CHUNKS + _NEXT)
        yield f"first {line!r}", _post(b"Content-Length: 5", host=line, body=_CHUNKS + _NEXT)
