"""Which certificate a listener shows: by the name that the client asks for (SNI), read again when files change.

The names are those that a certificate itself carries, so a custom domain needs no configuration: whoever puts
`NAME/chain.pem` and `NAME/key.pem` into the folder (an operator, or an ACME client) has it served within RELOAD_S.
Rule 1: a pair that cannot be used is refused by itself, once and aloud; what was read before it stays in use.
Rule 2: who asks for a name that no certificate carries, or for none (an address), is shown the default certificate: a
client then says whose it is instead. TLS has an alert for it, but asyncio and uvloop close before they send one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509

from wire.secured.tls import server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping
    from pathlib import Path

RELOAD_S: Final = 2.0
MAX_PAIRS: Final = 4096  # custom domains of one edge: 1 ms each to read, and 20 KiB of memory
MAX_PEM_BYTES: Final = 64 << 10  # a chain of four RSA-4096 certificates has 9 KiB
WORLD_READABLE: Final = 0o007
SOON: Final = dt.timedelta(days=7)  # whoever renews has failed by then: Let's Encrypt advises 30 days
MAX_SHOWN: Final = 16  # names in the edge's status

log = logging.getLogger("nearfield.edge")


class BadPairError(Exception):
    """A certificate and its key cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its key, as PEM files."""

    chain: Path
    key: Path

    def stamp(self) -> tuple[int, ...]:
        """What changes when either file does. Raises OSError."""
        found = self.chain.stat(), self.key.stat()
        return tuple(
            value for each in found for value in (each.st_mtime_ns, each.st_size, each.st_ino, each.st_mode)
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """A pair as it was read: its context, the lower-case DNS names it is good for, and from when until when."""

    pair: Pair
    context: ssl.SSLContext
    names: frozenset[str]
    not_before: dt.datetime
    not_after: dt.datetime

    def is_valid(self, now: dt.datetime) -> bool:
        """Whether a client whose clock is right would take it."""
        return self.not_before <= now < self.not_after


def read(pair: Pair) -> Certificate:
    """The certificate of a pair whose key belongs to it. Raises BadPairError."""
    try:
        if pair.key.stat().st_mode & WORLD_READABLE:
            raise BadPairError(f"others can read {pair.key}; run: chmod o= {pair.key}")
        if pair.chain.stat().st_size > MAX_PEM_BYTES:
            raise BadPairError(
                f"{pair.chain} has more than {MAX_PEM_BYTES} bytes; a chain of PEM is expected"
            )
        context = server_context(pair.chain, pair.key)
        leaf = x509.load_pem_x509_certificates(pair.chain.read_bytes())[0]
    except (
        OSError,
        ValueError,
    ) as error:  # ssl.SSLError is an OSError: not PEM, or another certificate's key
        raise BadPairError(f"{pair.chain} and {pair.key} cannot be used: {error}") from error
    return Certificate(pair, context, _names(leaf), leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _names(leaf: x509.Certificate) -> frozenset[str]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()  # only the default one may have none: clients stopped reading the subject long ago
    return frozenset(name.lower() for name in found.get_values_for_type(x509.DNSName))


def index(certificates: Iterable[Certificate], now: dt.datetime) -> dict[str, Certificate]:
    """The best certificate of each name: one that is valid at `now`, and of several the newest."""
    found: dict[str, Certificate] = {}
    for each in sorted(certificates, key=lambda c: (c.is_valid(now), c.not_before)):
        found |= dict.fromkeys(each.names, each)
    return found


def find(names: Mapping[str, Certificate], asked: str) -> Certificate | None:
    """The certificate for a name: its own, else the wildcard of its domain, one label deep (RFC 6125, 6.4.3)."""
    name = asked.lower().rstrip(".")
    return names.get(name) or names.get("*." + name.partition(".")[2])


@dataclass(frozen=True, slots=True)
class _Seen:
    """A pair as its files last were; the certificate is the last good one, None if there never was one."""

    stamp: tuple[int, ...]
    certificate: Certificate | None


class Certificates:
    """The certificates of an edge's listeners; `context` is what they listen with."""

    def __init__(self, default: Pair, folder: Path | None = None) -> None:
        """Raises BadPairError if the default pair cannot be used: without it nothing can be served."""
        self._default = default
        self._folder = folder
        self._first = read(default)
        self._seen: dict[Pair, _Seen] = {}
        self._names: dict[str, Certificate] = {}
        self.context = server_context(default.chain, default.key)
        self.context.sni_callback = self._choose
        self.refresh()

    def refresh(self) -> None:
        """Read what changed since the last time; blocks for the time of its files."""
        seen = {pair: self._look(pair) for pair in (self._default, *self._pairs())}
        self._seen = {pair: each for pair, each in seen.items() if each is not None}
        usable = [each.certificate for each in self._seen.values() if each.certificate is not None]
        self._first = next((each for each in usable if each.pair == self._default), self._first)
        self._names = index(usable, dt.datetime.now(dt.UTC))

    async def keep(self) -> None:
        """Refresh until cancelled."""
        while True:
            await asyncio.sleep(RELOAD_S)
            await asyncio.to_thread(self.refresh)

    def covers(self, name: str) -> bool:
        """Whether one of them is for the name; of a default one without names nobody knows."""
        return not self._names or find(self._names, name) is not None

    def expiries(self) -> dict[str, str]:
        """The names whose certificates end first, with that time (ISO 8601)."""
        soonest = sorted(self._names.items(), key=lambda item: (item[1].not_after, item[0]))
        return {name: each.not_after.isoformat() for name, each in soonest[:MAX_SHOWN]}

    def _pairs(self) -> list[Pair]:
        if self._folder is None or not self._folder.is_dir():
            return []
        folders = sorted(self._folder.iterdir())[:MAX_PAIRS]
        pairs = [Pair(folder / "chain.pem", folder / "key.pem") for folder in folders]
        return [pair for pair in pairs if pair.chain.is_file() and pair.key.is_file()]

    def _look(self, pair: Pair) -> _Seen | None:
        """A pair as it is now, read again only if its files changed."""
        before = self._seen.get(pair)
        try:
            stamp = pair.stamp()
        except OSError:
            return before  # gone since the folder was listed; the next look is right about it
        if before is not None and before.stamp == stamp:
            return before
        try:
            return _Seen(stamp, _read_aloud(pair))
        except BadPairError as error:
            log.warning("a certificate was not taken, what was there before stays: %s", error)
            return _Seen(stamp, before.certificate if before is not None else None)

    def _choose(self, connection: ssl.SSLObject, asked: str | None, _listener: ssl.SSLContext) -> None:
        """In each handshake: switch to the certificate that is asked for."""
        found = None if asked is None else find(self._names, asked)
        connection.context = (found or self._first).context


def _read_aloud(pair: Pair) -> Certificate:
    """Raises BadPairError."""
    found = read(pair)
    left = found.not_after - dt.datetime.now(dt.UTC)
    if left < SOON:
        log.warning("the certificate %s ends at %s; renew it", pair.chain, found.not_after.isoformat())
    return found
