"""TXT values that prove to a certificate authority whose name it is (RFC 8555, 8.4): few, short-lived, told.

seconds to keep u16 | length of name u8 | name | values, each: length u8, text
"""

import re
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

MAX_NAMES: Final = 256
MAX_VALUES: Final = 8
MAX_KEEP_S: Final = 3600
LABEL: Final = "_acme-challenge."
_HEAD: Final = struct.Struct("!HB")
_VALUE: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")  # base64url: nothing that a zone file would have to quote


class Challenge(NamedTuple):
    """`values` replace what the name had; none of them takes it away."""

    name: str
    values: tuple[str, ...]
    keep_s: int = MAX_KEEP_S


def encode(challenge: Challenge) -> bytes:
    """The payload."""
    name = challenge.name.encode()
    values = (value.encode() for value in challenge.values)
    return _HEAD.pack(challenge.keep_s, len(name)) + name + b"".join(bytes([len(v)]) + v for v in values)


def decode(payload: bytes) -> Challenge:
    """Raises ValueError: it is not one."""
    if len(payload) < _HEAD.size:
        raise ValueError("a short challenge")
    keep_s, length = _HEAD.unpack_from(payload)
    at = _HEAD.size + length
    name, values = payload[_HEAD.size : at].decode("ascii").lower(), []
    while at < len(payload):
        end = at + 1 + payload[at]
        values.append(payload[at + 1 : end].decode("ascii"))
        at = end
    whole = at == len(payload) and len(values) <= MAX_VALUES and name.startswith(LABEL)
    if not whole or not all(_VALUE.fullmatch(value) for value in values):
        raise ValueError("not a challenge")
    return Challenge(name, tuple(values), min(keep_s, MAX_KEEP_S))


class Challenges:
    """What stands in the zone now."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[tuple[str, ...], float]] = {}

    def take(self, challenge: Challenge, now: float) -> bool:
        """True if the zone changes. Raises ValueError: there are too many."""
        before = self.values(now)
        self._until.pop(challenge.name, None)
        if challenge.values:
            if len(self._until) >= MAX_NAMES:
                raise ValueError(f"more than {MAX_NAMES} names are proven at once")
            self._until[challenge.name] = (challenge.values, now + challenge.keep_s)
        return before != self.values(now)

    def expire(self, now: float) -> bool:
        """True if something ended, and the zone changes."""
        ended = [name for name, (_, until) in self._until.items() if now >= until]
        for name in ended:
            del self._until[name]
        return bool(ended)

    def values(self, now: float) -> Mapping[str, tuple[str, ...]]:
        """By name."""
        return {name: values for name, (values, until) in self._until.items() if now < until}
