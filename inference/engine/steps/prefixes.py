"""Where prompts begin: behind the longest prefix that a page of their tenant keeps. Plain Python.

A row gives its own blocks to the pages when it has a token, which proves that its keys and values are numbers, and
again when it leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.engine.steps.events import Stored
from inference.engine.steps.pages import PAGE_TOKENS, PageCache
from inference.engine.steps.rows import State

if TYPE_CHECKING:
    from inference.engine.steps.events import Event
    from inference.engine.steps.rows import Row


class Prefixes:
    """The pages of one engine as rows use them."""

    def __init__(self, num_pages: int) -> None:
        self.pages = PageCache(num_pages)
        self.num_asked = 0
        """Tokens of prompts that looked for kept pages, and of those the ones that were found."""
        self.num_found = 0

    def before(self, row: Row, ahead: set[bytes]) -> tuple[int, ...] | None:
        """The pages that this row begins behind; None if it is to wait for a step.

        It waits while a row before it in this step computes the very block it needs next, to copy that block
        afterwards. `ahead` has those blocks, and gets this row's. The first row of a step never waits.
        """
        if not self.pages.num_pages or not row.is_fresh:
            self._add_ahead(row, row.num_computed // PAGE_TOKENS, ahead)
            return ()
        pages = self.pages.find(row.chain, row.num_reusable)
        if len(pages) < row.num_reusable and row.chain.block(len(pages))[0] in ahead:
            return None
        self._add_ahead(row, len(pages), ahead)
        if not row.num_own:
            self.num_asked += len(row.tokens)
            self.num_found += len(pages) * PAGE_TOKENS
        return pages

    def stored(self, row: Row) -> list[Event]:
        """Give pages to this row's blocks, if what it computed is known to be numbers."""
        if not self.pages.num_pages or row.state is not State.DECODE:
            return []
        first, pages = self.pages.keep(row.chain, row.num_computed // PAGE_TOKENS)
        return [Stored(row.order.id, row.slot, first * PAGE_TOKENS, pages)] if pages else []

    def _add_ahead(self, row: Row, start: int, ahead: set[bytes]) -> None:
        if self.pages.num_pages:
            ahead.update(row.chain.digests(start, len(row.tokens) // PAGE_TOKENS))
