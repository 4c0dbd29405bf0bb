import base64
import hashlib
import zlib

import pytest

from storage.auth.canonical import signing_key
from storage.auth.sigv4 import ChunkChain
from storage.checksum import crc32c
from storage.fault import S3Error
from storage.http.awschunked import AwsChunkedDecoder

DATE, SCOPE = "20130524T000000Z", "20130524/us-east-1/s3/aws4_request"
KEY = signing_key("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1")
CRC = frozenset({"x-amz-checksum-crc32"})


def chain(seed: str) -> ChunkChain:
    return ChunkChain(KEY, DATE, SCOPE, seed)


def decode(wire: bytes, decoder: AwsChunkedDecoder, step: int | None = None):
    step = step or len(wire)
    pieces = [bytes(p) for i in range(0, len(wire), step) for p in decoder.receive(wire[i : i + step])]
    return b"".join(pieces), decoder.finish()


def signed_body(
    payload: bytes, seed: str, size: int = 65536, trailer: tuple[str, str] | None = None
) -> bytes:
    """What a client of the signed kinds sends."""
    link = chain(seed)
    out = []
    for at in [*range(0, len(payload), size), len(payload)]:
        piece = payload[at : at + size]
        link.previous = expected(
            link, "PAYLOAD", hashlib.sha256(b"").hexdigest(), hashlib.sha256(piece).hexdigest()
        )
        out.append(b"%x;chunk-signature=%s\r\n" % (len(piece), link.previous.encode()))
        out.append(piece + b"\r\n" if piece else b"")
    if trailer:
        text = f"{trailer[0]}:{trailer[1]}\n"
        link.previous = expected(link, "TRAILER", hashlib.sha256(text.encode()).hexdigest())
        out.append(f"{trailer[0]}:{trailer[1]}\r\nx-amz-trailer-signature:{link.previous}\r\n".encode())
    return b"".join([*out, b"\r\n"])


def expected(link: ChunkChain, label: str, *hashes: str) -> str:
    import hmac

    text = "\n".join((f"AWS4-HMAC-SHA256-{label}", link.at, link.scope, link.previous, *hashes))
    return hmac.digest(link.key, text.encode(), "sha256").hex()


def unsigned_body(payload: bytes, size: int = 10_000) -> bytes:
    crc = base64.b64encode(zlib.crc32(payload).to_bytes(4, "big")).decode()
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(payload[at : at + size]), payload[at : at + size])
        for at in range(0, len(payload), size)
    )
    return chunks + f"0\r\nx-amz-checksum-crc32:{crc}\r\n\r\n".encode()


def plain(decoded_bytes: int) -> AwsChunkedDecoder:
    return AwsChunkedDecoder(chain=None, trailers=CRC, decoded_bytes=decoded_bytes)


def test_the_example_of_the_documentation():
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html"""
    seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    wire = (
        b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"
        + b"a" * 65536
        + b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"
        + b"a" * 1024
        + b"\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"
    )
    decoder = AwsChunkedDecoder(chain=chain(seed), trailers=frozenset(), decoded_bytes=66560)

    assert decode(wire, decoder, 1000) == (b"a" * 66560, {})


def test_the_trailer_example_of_the_documentation():
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html"""
    seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
    payload = b"a" * 66560
    crc = crc32c()
    crc.update(payload)
    assert base64.b64encode(crc.digest()) == b"sOO8/Q=="
    wire = (
        b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n"
        + b"a" * 65536
        + b"\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n"
        + b"a" * 1024
        + b"\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n"
        + b"x-amz-checksum-crc32c:sOO8/Q==\r\n"
        + b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
    )
    trailers = frozenset({"x-amz-checksum-crc32c"})
    decoder = AwsChunkedDecoder(chain=chain(seed), trailers=trailers, decoded_bytes=66560)

    assert decode(wire, decoder) == (payload, {"x-amz-checksum-crc32c": "sOO8/Q=="})


@pytest.mark.parametrize("trailer", [None, ("x-amz-checksum-crc32", "AAAAAA==")])
def test_every_split_of_a_signed_body(trailer):
    payload = bytes(range(256)) * 33
    wire = signed_body(payload, "5e" * 32, 8192, trailer)
    trailers = frozenset({trailer[0]} if trailer else ())
    for cut in range(1, len(wire)):
        decoder = AwsChunkedDecoder(chain=chain("5e" * 32), trailers=trailers, decoded_bytes=len(payload))
        if 400 < cut < len(wire) - 600 and cut % 97:
            continue
        got = [bytes(p) for half in (wire[:cut], wire[cut:]) for p in decoder.receive(half)]
        assert b"".join(got) == payload
        assert decoder.finish() == (dict([trailer]) if trailer else {})


@pytest.mark.parametrize("step", [1, 2, 3, 7, 9999])
def test_any_step_of_an_unsigned_body(step):
    payload = bytes(range(251)) * 99

    got, trailers = decode(unsigned_body(payload), plain(len(payload)), step)

    assert got == payload
    assert set(trailers) == CRC


@pytest.mark.parametrize("at", range(0, 400, 7))
def test_a_changed_byte_of_a_signed_body_is_noticed(at):
    payload = b"x" * 100
    wire = bytearray(signed_body(payload, "5e" * 32, trailer=("x-amz-checksum-crc32", "AAAAAA==")))
    at %= len(wire)
    wire[at] ^= 1
    decoder = AwsChunkedDecoder(chain=chain("5e" * 32), trailers=CRC, decoded_bytes=100)

    with pytest.raises(S3Error):
        decode(bytes(wire), decoder)


@pytest.mark.parametrize(
    ("wire", "size", "code"),
    [
        (b"5\r\nhello\r\n0\r\n", 5, "IncompleteBody"),
        (b"5\r\nhel", 5, "IncompleteBody"),
        (b"", 0, "IncompleteBody"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\nmore", 5, "IncompleteBody"),
        (b"6\r\nhello!\r\n0\r\n\r\n", 5, "IncompleteBody"),
        (b"5\r\nhello\r\n0\r\n\r\n", 6, "IncompleteBody"),
        (b"5\r\nhelloo\r\n", 5, "IncompleteBody"),
        (b"-5\r\nhello\r\n", 5, "IncompleteBody"),
        (b"+5\r\nhello\r\n", 5, "IncompleteBody"),
        (b"5;chunk-signature=" + b"0" * 64 + b"\r\nhello\r\n", 5, "IncompleteBody"),
        (b"f" * 300, 5, "IncompleteBody"),
        (b"fffffffffffffffff\r\n", 5, "IncompleteBody"),
        (b"1\r\nh\r\n4\r\nello\r\n", 5, "InvalidChunkSizeError"),
        (b"5\r\nhello\r\n0\r\n\r\n", 5, "MalformedTrailerError"),
        (b"5\r\nhello\r\n0\r\nx-amz-meta-a:b\r\n\r\n", 5, "MalformedTrailerError"),
        (b"5\r\nhello\r\n0\r\nno colon\r\n\r\n", 5, "MalformedTrailerError"),
        (
            b"5\r\nhello\r\n0\r\n" + b"x-amz-checksum-crc32:AAAAAA==\r\n" * 2 + b"\r\n",
            5,
            "MalformedTrailerError",
        ),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:" + b"A" * 250 + b"\r\n", 5, "IncompleteBody"),
    ],
)
def test_bad_framing_is_refused(wire, size, code):
    with pytest.raises(S3Error) as caught:
        decode(wire, plain(size), 1)

    assert caught.value.code == code


def test_a_signed_body_may_not_leave_out_its_trailers_signature():
    wire = signed_body(b"hello", "5e" * 32)[:-2] + b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    decoder = AwsChunkedDecoder(chain=chain("5e" * 32), trailers=CRC, decoded_bytes=5)

    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        decode(wire, decoder)
