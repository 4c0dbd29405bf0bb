"""Edges hear of each other here: each says how it is now and then, and is told what the others said last.

In memory only. An edge that stops is told of with its age, so that whoever looks sees since when it is silent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from regions.pops import KEPT_S, MAX_EDGES, MAX_WORD_BYTES, BadWordError, Word, encode_words, read_word
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from wire.listener.exchange import Exchange

JSON: Final = (("content-type", "application/json"),)


class Pops:
    """The last word of each edge, with the loop time at which it came."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[Word, float]] = {}

    async def serve(self, exchange: Exchange) -> None:
        """Take an edge's word, and say all there are. Raises Refusal 400, 413, and 503 if there are too many edges."""
        try:
            word = read_word(await exchange.read_body(MAX_WORD_BYTES))
        except BadWordError as error:
            raise Refusal(400, "bad_request", f"{error}.") from error
        now = asyncio.get_running_loop().time()
        self._heard = {name: each for name, each in self._heard.items() if now - each[1] < KEPT_S}
        if word.edge not in self._heard and len(self._heard) >= MAX_EDGES:
            raise Refusal(503, "overloaded", f"{MAX_EDGES} edges have spoken already.", "server_error")
        self._heard[word.edge] = word, now
        await exchange.respond(200, JSON, encode_words(self._heard, now))
