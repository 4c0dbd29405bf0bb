"""Kept prefixes: which blocks of which prompts have their keys and values in which page. Plain Python, no torch.

A page holds the keys and values of `PAGE_TOKENS` consecutive tokens that stand behind one certain prefix. It is
found by a chained digest, which names a block together with all that stands before it and whose it is, and it
is believed by comparison: a page is taken only behind the very page that it was made behind, for the same tenant
and the same tokens. So a collision of digests costs a hit and never mixes two prompts, and nobody can tell by the
time of an answer what another tenant has asked.
"""

from __future__ import annotations

import hashlib
import heapq
import secrets
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE_TOKENS = 16
"""Tokens of one page: a prompt is computed again from its last whole page on."""
DIGEST_BYTES = 16
PROCESS_KEY = secrets.token_bytes(32)
"""Nobody outside can look for tokens whose digests collide."""


def digest(salt: bytes, before: bytes, block: tuple[int, ...]) -> bytes:
    """The name of a block behind the block named `before` (empty for the first)."""
    return hashlib.blake2b(before + array("q", block).tobytes(), digest_size=DIGEST_BYTES, key=salt).digest()


class Chain:
    """The whole blocks of one row's tokens with their digests, made as they are asked for; `tokens` may grow."""

    __slots__ = ("_blocks", "_digests", "_salt", "_tokens", "tenant")

    def __init__(self, tenant: str, tokens: Sequence[int]) -> None:
        self.tenant = tenant
        self._tokens = tokens
        self._salt = hashlib.blake2b(
            tenant.encode("utf-8", "surrogatepass"), digest_size=32, key=PROCESS_KEY
        ).digest()
        self._digests: list[bytes] = []
        self._blocks: list[tuple[int, ...]] = []

    def block(self, number: int) -> tuple[bytes, tuple[int, ...]]:
        """Digest and tokens of one whole block.

        Raises:
            IndexError: there are not so many tokens yet.
        """
        while number >= len(self._blocks):
            start = len(self._blocks) * PAGE_TOKENS
            block = tuple(self._tokens[start : start + PAGE_TOKENS])
            if len(block) < PAGE_TOKENS:
                raise IndexError(f"block {number} is not whole")
            before = self._digests[-1] if self._digests else b""
            self._digests.append(digest(self._salt, before, block))
            self._blocks.append(block)
        return self._digests[number], self._blocks[number]

    def digests(self, start: int, stop: int) -> list[bytes]:
        """The digests of blocks `start` to `stop`."""
        return [self.block(number)[0] for number in range(start, stop)]


@dataclass(frozen=True, slots=True, eq=False)
class _Page:
    number: int
    tenant: str
    tokens: tuple[int, ...]
    before: _Page | None


class PageCache:
    """`num_pages` pages, each free or kept for exactly one block behind one prefix.

    The least recently used page gives way. It is always the last of its prefix: whoever uses a page uses those
    before it too, and they are put behind it in the order of use.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages))
        self._kept: OrderedDict[bytes, _Page] = OrderedDict()  # least recently used first

    @property
    def num_kept(self) -> int:
        """Pages that hold something."""
        return len(self._kept)

    def find(self, chain: Chain, num_blocks: int) -> tuple[int, ...]:
        """The pages of the longest kept prefix within the first `num_blocks` blocks; they count as used now."""
        path = list(self._path(chain, num_blocks))
        self._use(chain, len(path))
        return tuple(page.number for page in path)

    def keep(self, chain: Chain, num_blocks: int) -> tuple[int, tuple[int, ...]]:
        """Give pages to those of the first `num_blocks` blocks that have none; they are to be filled at once.

        Returns the number of the first such block, and the pages. Fewer than asked for where the cache is
        smaller than the prefix, or where another block has the same digest.
        """
        path = list(self._path(chain, num_blocks))
        first = len(path)
        self._use(chain, first)
        for number in range(first, min(num_blocks, self.num_pages)):
            name, tokens = chain.block(number)
            if name in self._kept:
                break
            page = _Page(self._take(), chain.tenant, tokens, path[-1] if path else None)
            self._kept[name] = page
            path.append(page)
        self._use(chain, len(path))
        return first, tuple(page.number for page in path[first:])

    def check(self) -> None:
        """The invariants.

        Raises:
            RuntimeError: a page is leaked, is kept twice, or stands behind a page that is gone or another tenant's.
        """
        held = {page.number for page in self._kept.values()}
        if (
            len(held) != len(self._kept)
            or held & {*self._free}
            or len(held) + len(self._free) != self.num_pages
        ):
            raise RuntimeError(f"{len(self._kept)} pages kept, {len(self._free)} free of {self.num_pages}")
        pages = set(self._kept.values())
        for page in pages:
            if page.before is not None and (page.before not in pages or page.before.tenant != page.tenant):
                raise RuntimeError(f"page {page.number} stands behind one that is gone or another tenant's")

    def _path(self, chain: Chain, num_blocks: int) -> Iterator[_Page]:
        before: _Page | None = None
        for number in range(min(num_blocks, self.num_pages)):
            name, tokens = chain.block(number)
            page = self._kept.get(name)
            if (
                page is None
                or page.before is not before
                or (page.tenant, page.tokens) != (chain.tenant, tokens)
            ):
                return
            yield page
            before = page

    def _use(self, chain: Chain, num_blocks: int) -> None:
        """The first page of a prefix last: what stands behind it must give way before it does."""
        for name in reversed(chain.digests(0, num_blocks)):
            self._kept.move_to_end(name)

    def _take(self) -> int:
        """A free page, or the least recently used one, which is then free."""
        if not self._free:
            heapq.heappush(self._free, self._kept.popitem(last=False)[1].number)
        return heapq.heappop(self._free)
