"""Where requests enter one external engine: its address, who is inside or waits to be, and when it was last heard."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from inference.workers.engines.calls import worker_lost
from inference.workers.entry.entrance import Entrance
from inference.workers.entry.turnstile import Turnstile
from wire.dial import DialError, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from inference.outside.definition import Definition
    from wire.dial import Answer
    from wire.http.heads import Headers

CONNECT_S = 5.0
"""To a server on this host that listens; one that does not accept within it has hung."""
SALT_BYTES = 32
"""256 bits, as vLLM's documentation asks for."""
MAX_HEALTH_BYTES = 64 * 1024
_JSON = (("content-type", "application/json"), ("accept-encoding", "identity"))


class Door:
    """One running engine as its requests see it. `served` is its own name of the model, `folder` where that lies."""

    def __init__(
        self, made: Definition, model: str, served: str, folder: str, pool: Pool,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.made, self.model, self.served, self.folder = made, model, served, folder
        self.entrance = Entrance(now, Turnstile(made.max_requests, is_shy=False, is_strict=True))
        self.num_open = 0
        self.heard_at = now()
        self._pool, self._now = pool, now
        self._hung = False
        self._secret = secrets.token_bytes(SALT_BYTES)

    def salt(self, tenant: str, own: str | None = None) -> str:
        """What keys the engine's prefix cache for a tenant; another one for each salt that it has of its `own`.

        Nobody can guess it: it comes from a secret that lives as long as the engine, as its cache does.
        """
        told = json.dumps([tenant, own]).encode()
        return blake2b(told, key=self._secret, digest_size=SALT_BYTES).hexdigest()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """A request is on it, once it was its turn at the `entrance`."""
        if not self.num_open:
            self.heard_at = self._now()  # a silence begins with the first question
        self.num_open += 1
        try:
            yield
        finally:
            self.num_open -= 1

    def heard(self) -> None:
        """It sent something."""
        self.heard_at = self._now()

    @property
    def may_be_busy(self) -> bool:
        """It has requests, and has not been silent for too long."""
        return self.num_open > 0 and self._now() - self.heard_at < self.made.stall_s

    @property
    def has_hung(self) -> bool:
        """A request waited in vain, and no other was answered meanwhile."""
        return self._hung

    def waited_in_vain(self, since: float) -> None:
        """A request's deadline passed; it was sent, or last heard of, at `since` (of `now`)."""
        self._hung = self._hung or self.heard_at <= since

    def now(self) -> float:
        """Its clock."""
        return self._now()

    async def post(self, path: str, value: Mapping[str, Any], head_s: float, more: Headers = ()) -> Answer:
        """Send a request, with `more` headers. Raises DialError."""
        body = json.dumps(value, ensure_ascii=False).encode()
        headers = (*_JSON, *more)
        return await self._pool.request("POST", path, headers, body, connect_s=CONNECT_S, head_s=head_s)

    async def get(self, path: str, deadline_s: float, max_bytes: int = MAX_HEALTH_BYTES) -> bytes | None:
        """The body of a page; None if the engine does not give it (with status 200, in time)."""
        try:
            answer = await self._pool.request(
                "GET", path, connect_s=min(CONNECT_S, deadline_s), head_s=deadline_s
            )
            async with answer:
                body = await answer.read(max_bytes, deadline_s)
                return body if answer.head.status == 200 else None
        except DialError:
            return None

    def cut(self) -> None:
        """Break every connection: what waits on one, or for its turn, fails now."""
        self.entrance.fail_all(worker_lost())
        self._pool.abort()

    async def close(self) -> None:
        """No more requests."""
        self.entrance.fail_all(worker_lost())
        await self._pool.close()
