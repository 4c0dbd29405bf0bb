"""Which region is likely to have a prompt's beginning in its pages: where this edge last sent that beginning. Bounded.

A beginning is known by digests of its first bytes, salted by tenant and model, so no tenant's prompts say anything
of another's. What a region keeps is its engines' to decide: this is a guess, and only worth its share of the prefill.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from regions.ask import ASKED, CHARS_PER_TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping

CUTS: Final = (
    512,
    2048,
    8192,
)  # bytes of a beginning that is remembered: a system prompt, documents, a long talk
LEAST_TOKENS: Final = CUTS[0] // CHARS_PER_TOKEN  # shorter prompts are computed sooner than looked up
KEPT_S: Final = 300.0  # pages that nobody asked for are soon another prompt's
MAX_MARKS: Final = 16_384  # about 5 MB
MAX_REGIONS: Final = 4  # that one beginning is known of
NOWHERE: Final[Mapping[str, int]] = MappingProxyType({})


class Mark(NamedTuple):
    """One beginning: its digest, and about how many tokens it has."""

    digest: bytes
    tokens: int


def marks(tenant: str, model: str, path: str, body: bytes) -> tuple[Mark, ...]:
    """The beginnings of the prompt in `body`, shortest first; none for what is not generated from."""
    asked = ASKED.get(path)
    if asked is None or "generate" not in asked.kinds or not asked.is_bounded:
        return ()
    start = body.find(
        b'"%b"' % asked.prompt.encode()
    )  # parameters before it differ from one request to the next
    if start < 0 or len(body) - start < CUTS[0]:
        return ()
    digest, done, found = blake2b(f"{tenant}\0{model}\0".encode(), digest_size=16), 0, []
    for cut in CUTS:
        if len(body) - start < cut:
            break
        digest.update(body[start + done : start + cut])
        done = cut
        found.append(Mark(digest.copy().digest(), cut // CHARS_PER_TOKEN))
    return tuple(found)


class Prefixes:
    """What was sent where, the least recently used forgotten."""

    def __init__(self, max_marks: int = MAX_MARKS) -> None:
        self._max_marks = max_marks
        self._sent: OrderedDict[bytes, dict[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sent)

    def known(self, of: tuple[Mark, ...], now: float) -> Mapping[str, int]:
        """Tokens of the longest beginning that each region was sent within KEPT_S."""
        found: dict[str, int] = {}
        for mark in of:  # a longer one comes later, and goes
            for region, at in self._sent.get(mark.digest, NOWHERE).items():
                if now - at <= KEPT_S:
                    found[region] = mark.tokens
        return found

    def sent(self, of: tuple[Mark, ...], region: str, now: float) -> None:
        """A prompt with these beginnings goes to `region`."""
        for mark in of:
            where = self._sent.pop(mark.digest, None) or {}
            where.pop(region, None)
            where[region] = now
            if len(where) > MAX_REGIONS:
                del where[next(iter(where))]
            self._sent[mark.digest] = where
        while len(self._sent) > self._max_marks:
            self._sent.popitem(last=False)
