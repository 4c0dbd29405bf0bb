"""What the ACME client keeps: its account's key, when to try again, and certificates; each file whole or not there."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509

from edge.acme.faults import AcmeError
from edge.acme.jose import AccountKey

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    from edge.acme.order import Issued

PRIVATE: Final = 0o600
MAX_BYTES: Final = 1 << 20


class ShelfError(Exception):
    """Another process issues, or a file cannot be used; the message says which."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """How often a certificate failed in a row, until when it is left alone (Unix time), and why."""

    num_failed: int = 0
    until: float = 0.0
    said: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A certificate that is there: when it is good, and for which names."""

    begins: dt.datetime
    ends: dt.datetime
    domains: frozenset[str]


class Shelf:
    """`state` is ours alone, `certificates` is where edges look (`NAME/chain.pem` and `NAME/key.pem`)."""

    def __init__(self, state: Path, certificates: Path) -> None:
        self._state = state
        self._certificates = certificates
        self._lock = -1

    def open(self) -> AccountKey:
        """Take the folder for this process; returns the account's key, made at the first start. Raises ShelfError."""
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self._state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ShelfError(
                f"{self._state} is in use: one process issues, and another is running"
            ) from error
        path = self._state / "account.pem"
        if not path.exists():
            write(path, AccountKey.fresh().pem())
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise ShelfError(f"{path} has mode {mode:o}; others can read it. Run: chmod 600 {path}")
        return AccountKey.from_pem(path.read_bytes())

    def close(self) -> None:
        """Let another process have it."""
        if self._lock >= 0:
            os.close(self._lock)

    def trouble(self, name: str) -> Trouble:
        """What is remembered of failures; nothing if it cannot be read."""
        try:
            value = json.loads((self._state / f"{name}.json").read_bytes()[:MAX_BYTES])
            return Trouble(int(value["num_failed"]), float(value["until"]), str(value["said"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Trouble()

    def remember(self, name: str, trouble: Trouble) -> None:
        """Keep it through a restart: a CA counts what we forget. Raises OSError."""
        write(self._state / f"{name}.json", json.dumps(asdict(trouble)).encode())

    def held(self, name: str) -> Held | None:
        """The certificate that is there, None if none can be used."""
        folder = self._certificates / name
        try:
            leaf = x509.load_pem_x509_certificates((folder / "chain.pem").read_bytes()[:MAX_BYTES])[0]
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            if not (folder / "key.pem").exists():
                return None
        except (OSError, ValueError, x509.ExtensionNotFound):
            return None
        domains = frozenset(names.get_values_for_type(x509.DNSName))
        return Held(leaf.not_valid_before_utc, leaf.not_valid_after_utc, domains)

    def put(self, name: str, issued: Issued) -> None:
        """Replace a pair; between the two renames an edge finds that they do not fit and keeps what it has.

        Raises AcmeError: the disk does not take it, which must not become an order a minute.
        """
        folder = self._certificates / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / "key.pem", issued.key)
            write(folder / "chain.pem", issued.chain)
        except OSError as error:
            raise AcmeError("disk", f"{folder} cannot be written: {error.strerror}") from error


def write(path: Path, data: bytes) -> None:
    """Write a file that nobody else can read, whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), PRIVATE)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
