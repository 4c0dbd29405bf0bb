"""The one process of a fleet that gets certificates, and gets them again before they end."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge.acme.due import after_failure, is_due
from edge.acme.faults import AcmeError
from edge.acme.order import issue
from edge.acme.prover import ZoneProver
from edge.acme.shelf import Shelf, Trouble
from edge.acme.talk import Talk
from wire.secured.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge.acme.jose import AccountKey

LOOK_S: Final = 60.0  # how late a certificate is noticed to be due

log = logging.getLogger("nearfield.acme")


@dataclass(frozen=True, slots=True)
class AcmeSettings:
    """`orders` are domains by certificate name; `ca` is what signed the CA's own certificate, None: the system's."""

    directory: str
    contact: tuple[str, ...]
    agreed: bool
    ca: Path | None
    state: Path
    certificates: Path
    orders: Mapping[str, tuple[str, ...]]
    zone: str
    feeds: tuple[tuple[str, int], ...]
    servers: tuple[tuple[str, int], ...]
    key: bytes = field(repr=False)
    look_s: float = LOOK_S


async def run(settings: AcmeSettings, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Look after every certificate until `stop` is set.

    Raises ShelfError (another process issues), KeyFileError or OSError (the account's key, the CA's certificates).
    """
    shelf = Shelf(settings.state, settings.certificates)
    key = shelf.open()
    try:
        keeper = Keeper(settings, shelf, key)
        ready(0)
        stopping = asyncio.create_task(stop.wait())
        while not stop.is_set():
            look = asyncio.create_task(keeper.look())
            await asyncio.wait({look, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not look.done():
                look.cancel()
                await asyncio.wait({look})
                break
            look.result()
            await asyncio.wait({stopping}, timeout=settings.look_s)
    finally:
        shelf.close()


class Keeper:
    """`look` goes through the certificates once, one after another: a CA counts orders at the same time."""

    def __init__(self, settings: AcmeSettings, shelf: Shelf, key: AccountKey) -> None:
        self._settings = settings
        self._shelf = shelf
        self._key = key
        self._tls = client_context(settings.ca)
        self._prover = ZoneProver(settings.zone, settings.feeds, settings.servers, settings.key)
        self._limited_until = 0.0  # the account's, whichever certificate met it

    async def look(self) -> int:
        """Ask for what is due and not left alone; returns how many came."""
        num = 0
        for name, domains in self._settings.orders.items():
            due = is_due(self._shelf.held(name), frozenset(domains), dt.datetime.now(dt.UTC))
            until = max(self._limited_until, self._shelf.trouble(name).until)
            if due and time.time() >= until:
                num += await self._get(name, domains)
        return num

    async def _get(self, name: str, domains: tuple[str, ...]) -> bool:
        talk = Talk(self._settings.directory, self._key, self._tls)
        try:
            await talk.open(self._settings.contact, agreed=self._settings.agreed)
            issued = await issue(talk, self._prover, domains)
            await asyncio.to_thread(self._shelf.put, name, issued)
        except AcmeError as error:
            self._failed(name, error)
            return False
        finally:
            await talk.close()
        self._shelf.remember(name, Trouble())
        log.info("certificate %s for %s is here", name, ", ".join(domains))
        return True

    def _failed(self, name: str, error: AcmeError) -> None:
        now, share = time.time(), random.random()  # noqa: S311 - spreads fleets, hides nothing
        trouble = after_failure(self._shelf.trouble(name), error, now, share)
        self._shelf.remember(name, trouble)
        if error.kind == "rateLimited":
            self._limited_until = trouble.until
        log.warning("certificate %s: %s; again in %.0f s", name, error, trouble.until - now)
