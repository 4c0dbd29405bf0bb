"""The policy row: who may call. The home region signs it when keys change; every region keeps the signed bytes.

The row is an object of the home's `nearfield-system`, moved by conditional writes, so its (epoch, seq) only
grow, whoever signs and however often that process restarts.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from regions.keys.record import MAX_RECORD_BYTES, read_record
from regions.map.names import SYSTEM_BUCKET
from regions.map.policy import MAX_KEYS, KeyGrant, PolicyRow
from regions.map.region import MAX_ROW_BYTES
from regions.objects.ledger import KEYS, LOCAL_POLICY, POLICY, RULES
from regions.rollout.trial import LOOK_S, judged
from regions.row_fields import RowRefused
from regions.rows import decode, encode
from regions.rules import MAX_RULES_BYTES, Ordered, RulesError, read_rules
from storage.client.sdk import NotFound, StoreError
from weights_cache.model.strict import StrictError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from regions.deployments import Deployments
    from regions.objects.ledger import Ledger
    from regions.objects.store import Store
    from regions.rollout.trial import Report
    from regions.rows import Signers

log = logging.getLogger("nearfield.regions")

RETRY_S = 1.0  # after the store did not answer, or another signer was first


NO_REPORTS: Mapping[str, Report] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Held:
    """The policy row in force and its signed line."""

    row: PolicyRow
    line: bytes


class Policy:
    """The policy row of one region: the newest one seen, kept in its own store and in the deployments."""

    def __init__(self, ledger: Ledger, signers: Signers, deployments: Deployments) -> None:
        self._ledger = ledger
        self._signers = signers
        self._deployments = deployments
        self._held: Held | None = None

    @property
    def row(self) -> PolicyRow | None:
        """The row in force; None before the first one."""
        return self._held.row if self._held else None

    async def recover(self) -> None:
        """Takes up the region's own copy. Raises StoreError."""
        found = await self._ledger.read(LOCAL_POLICY, MAX_ROW_BYTES)
        held = None if found is None else self.checked(found[0])
        if held is not None:
            self._use(held)

    async def take(self, line: bytes) -> None:
        """Takes a signed line if it is a policy row newer than the one in force. Raises StoreError."""
        held = self.checked(line)
        if held is None or (self._held is not None and _age(held.row) <= _age(self._held.row)):
            return
        await self._ledger.write(LOCAL_POLICY, line)
        self._use(held)

    def checked(self, line: bytes) -> Held | None:
        """The policy row in a line; None, and a word in the log, when it is not to be believed."""
        try:
            row = decode(line, self._signers)
        except RowRefused as error:
            log.warning("a policy row was not taken: %s", error)
            return None
        return Held(row, line) if isinstance(row, PolicyRow) else None

    def _use(self, held: Held) -> None:
        self._held = held
        self._deployments.policy_line = held.line
        self._deployments.touch()


class CopiedPolicy:
    """Any region but home: the home's row, byte for byte."""

    def __init__(self, home: Ledger, policy: Policy) -> None:
        self._home = home
        self._policy = policy

    async def step(self, key: str) -> float | None:
        """Looks, and says after how many seconds to look again; None: when something there changes."""
        del key
        try:
            found = await self._home.registers.read(POLICY, MAX_ROW_BYTES)
            if found is not None:
                await self._policy.take(found[0])
        except StoreError as error:
            log.warning("the policy waits: %s", error)
            return RETRY_S
        return None


class SignedPolicy:
    """The home region: reads the keys and signs a new row when they grant something else than the last one."""

    def __init__(
        self,
        store: Store,
        home: Ledger,
        policy: Policy,
        key: Ed25519PrivateKey,
        wall: Callable[[], float] = time.time,
        *,
        all_regions: Sequence[str] = (),
        reports: Mapping[str, Report] = NO_REPORTS,
    ) -> None:
        self._all_regions, self._reports = all_regions, reports
        self._trial_since = -1, 0.0  # serial of the trial under way, and when this process first saw it
        self._ordered = Ordered()
        self._store = store
        self._home = home
        self._policy = policy
        self._key = key
        self._wall = wall
        self._read: dict[
            str, tuple[str, tuple[str, KeyGrant] | None]
        ] = {}  # object key -> etag, what it grants

    async def step(self, key: str) -> float | None:
        """Looks, and says after how many seconds to look again; None: when something there changes."""
        del key
        try:
            await self._sign(await self._grants(), await self._rules())
        except (StoreError, RowRefused) as error:
            log.warning("the policy waits: %s", error)
            return RETRY_S
        return LOOK_S if self._policy.row is not None and self._policy.row.trial is not None else None

    async def _rules(self) -> Ordered:
        """What the operator wants; what it was, and a word in the log, while that cannot be read."""
        found = await self._home.read(RULES, MAX_RULES_BYTES)
        try:
            self._ordered = Ordered() if found is None else read_rules(found[0], self._all_regions)
        except RulesError as error:
            log.warning("%s is not taken, the rules stay as they are: %s", RULES, error)
            last = self._policy.row
            if last is not None and self._ordered == Ordered():  # of before this process began
                self._ordered = Ordered(last.rules, canary=last.canary)
        return self._ordered

    async def _sign(self, grants: dict[str, KeyGrant], ordered: Ordered) -> None:
        if not grants:
            log.warning("there is no key: the policy stays as it is, so that nobody is locked out by a slip")
            return
        found = await self._home.registers.read(POLICY, MAX_ROW_BYTES)
        last = None if found is None else self._policy.checked(found[0])
        row = self._next(last.row if last else self._policy.row, grants, ordered)
        if found is not None and last is not None and last.row == replace(row, seq=last.row.seq):
            await self._policy.take(found[0])
            return
        line = encode(row, self._key)
        await self._home.registers.move(POLICY, line, None if found is None else found[1])
        await self._policy.take(line)

    def _next(self, last: PolicyRow | None, grants: dict[str, KeyGrant], ordered: Ordered) -> PolicyRow:
        """Newer than any row before: the last one's successor, or the first of an epoch that begins now."""
        if last is None:
            now_ms = int(self._wall() * 1000)
            return PolicyRow(now_ms, 1, grants, rules=ordered.rules, canary=ordered.canary)
        serial = last.trial.serial if last.trial else -1
        if serial != self._trial_since[0]:
            self._trial_since = serial, time.monotonic()
        found = judged(last, ordered, self._reports, time.monotonic() - self._trial_since[1])
        return PolicyRow(
            last.epoch,
            last.seq + 1,
            grants,
            rules=found.rules,
            trial=found.trial,
            withdrawn=found.withdrawn,
            canary=ordered.canary,
        )

    async def _grants(self) -> dict[str, KeyGrant]:
        """Digest -> grant of every well-formed key object. Raises StoreError."""
        read: dict[str, tuple[str, tuple[str, KeyGrant] | None]] = {}
        async for entry in self._store.list(SYSTEM_BUCKET, KEYS):
            known = self._read.get(entry.key)
            read[entry.key] = (
                known if known and known[0] == entry.etag else (entry.etag, await self._grant(entry.key))
            )
            if len(read) > MAX_KEYS:
                raise StoreError("too_many_keys", f"more than {MAX_KEYS:,} keys: the policy stays as it is")
        self._read = read
        return dict(grant for _, grant in read.values() if grant is not None)

    async def _grant(self, key: str) -> tuple[str, KeyGrant] | None:
        """What one key object grants; None, and a word in the log, for one that is malformed or gone."""
        try:
            got = await self._store.get(SYSTEM_BUCKET, key, max_bytes=MAX_RECORD_BYTES)
            record = read_record(got.data)
        except NotFound:
            return None
        except StrictError as error:
            log.warning("%s grants nothing: %s", key, error)
            return None
        if key != f"{KEYS}{record.digest}.json":
            log.warning("%s grants nothing: it is about another digest", key)
            return None
        return record.digest, record.grant


def _age(row: PolicyRow) -> tuple[int, int]:
    return row.epoch, row.seq
