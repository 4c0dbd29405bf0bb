"""One stream of bytes through the gate: refused, or read alike by every parser, before and behind our relay."""

from tests.attack.http.readers import (
    NOT_BELIEVED,
    Read,
    Reading,
    as_sent_on,
    by_gate,
    by_h11,
    by_llhttp,
    meant,
)


def check(stream: bytes) -> Reading:
    """Raises AssertionError if two parsers could mean different requests by what the gate lets through."""
    reading = by_gate([stream])
    ours = reading.reads()
    if not ours:
        return reading
    assert by_h11(stream, len(ours)) == ours
    whole = ours[: reading.num_whole]
    theirs, refused = by_llhttp(
        stream, len(whole)
    )  # in some things it is stricter: then it reads less, and not else
    assert theirs == (whole[: len(theirs)] if refused else whole)
    _check_behind(reading, [meant(read) for read in whole])
    return reading


def _check_behind(reading: Reading, expected: list[Read]) -> None:
    """What our relay writes to one kept connection is these requests, and no byte of another."""
    sent = b"".join(map(as_sent_on, reading.heads[: len(expected)], reading.bodies))
    num = len(expected) + 1
    arrived = by_h11(sent, num)
    assert [meant(read) for read in arrived] == expected
    assert not [name for read in arrived for name, _ in read.headers if name.startswith(NOT_BELIEVED)]
    theirs, refused = by_llhttp(sent, num)
    assert ([meant(read) for read in theirs], refused) == (expected, False)
