"""Rows on the wire: one signed line of canonical JSON each, refused one by one, folded into a snapshot.

A line is `{"kind","id","epoch","seq","body","sig"}`; `sig` is Ed25519 over the canonical JSON of the rest.
Every refusal has a code and leaves the last good row in force: a bad map can make an edge stale, never wrong.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from regions.map import MAX_ROW_BYTES, POLICY_ID, KeyGrant, ModelRow, PolicyRow, RegionRow
from regions.offer import Offer, offers
from regions.row_fields import ENVELOPE, POLICY, POLICY_LATER, REGION, RowRefused, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.map import Rules

__all__ = ["NEVER", "Heard", "RowRefused", "Signers", "Snapshot", "canonical", "decode", "encode", "fold"]
__all__ += ["public_bytes", "signing_key", "verify"]

NOT_YET: Final[Mapping[str, Offer]] = MappingProxyType({})
MAX_AHEAD_MS: Final = 300_000  # five minutes: what a clock without a time server may be off, and no more
NEVER: Final = -math.inf  # heard at: a row from disk, not yet heard again from its region


@dataclass(frozen=True, slots=True)
class Signers:
    """Who may sign what: each region its own row, the home region also the policy row."""

    keys: Mapping[str, Ed25519PublicKey]
    home: str

    @classmethod
    def of(cls, public_keys: Mapping[str, bytes], home: str) -> Signers:
        """From raw 32-byte public keys."""
        keys = {name: Ed25519PublicKey.from_public_bytes(raw) for name, raw in public_keys.items()}
        return cls(MappingProxyType(keys), home)

    def key_for(self, kind: str, row_id: str) -> Ed25519PublicKey:
        """The one key that may sign this row; raises RowRefused."""
        name = self.home if kind == "policy" else row_id
        if kind == "policy" and row_id != POLICY_ID:
            raise RowRefused("wrong_region", f"the policy row's id is {POLICY_ID!r}")
        if name not in self.keys:
            raise RowRefused("unknown_region", f"no public key is known for {name[:64]!r}")
        return self.keys[name]


def signing_key(raw: bytes) -> Ed25519PrivateKey:
    """The signing key of a region from its raw 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(raw)


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The raw 32 public bytes that edges know this signer by."""
    return key.public_key().public_bytes_raw()


# ---- writing


def canonical(document: object) -> bytes:
    """Sorted keys, no spaces, UTF-8: equal values have equal bytes. Raises ValueError for NaN."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def encode(row: RegionRow | PolicyRow, key: Ed25519PrivateKey) -> bytes:
    """The signed line of `row`, without its newline; raises RowRefused when it is too long to be taken."""
    if isinstance(row, PolicyRow):
        kind, body = "policy", _policy_body(row)
    else:
        kind, body = "region", _region_body(row)
    document = {"kind": kind, "id": row.id, "epoch": row.epoch, "seq": row.seq, "body": body}
    line = canonical({**document, "sig": key.sign(canonical(document)).hex()})
    if len(line) > MAX_ROW_BYTES:
        raise RowRefused("oversized", f"the row has {len(line)} bytes, at most {MAX_ROW_BYTES} are taken")
    return line


def _policy_body(row: PolicyRow) -> dict[str, object]:
    trial = row.trial
    return {
        "keys": {digest: _grant_body(grant) for digest, grant in row.keys.items()},
        "rules": rules_body(row.rules),
        "trial": trial
        and {
            "serial": trial.serial,
            "rules": rules_body(trial.rules),
            "edges": list(trial.edges),
            "seconds": trial.seconds,
        },
        "withdrawn": row.withdrawn,
        "canary": {"regions": list(row.canary.regions), "bake_s": row.canary.bake_s},
    }


def _grant_body(grant: KeyGrant) -> dict[str, object]:
    quota = grant.quota
    return {
        "tenant": grant.tenant,
        "scopes": sorted(grant.scopes),
        "models": list(grant.models),
        "expires_s": grant.expires_s,
        "quota": [quota.requests_per_min, quota.tokens_per_min, quota.streams, quota.weight],
    }


def rules_body(rules: Rules) -> dict[str, object]:
    """Rules as JSON-ready values."""
    return {
        "areas": {name: list(regions) for name, regions in rules.areas.items()},
        "aliases": dict(rules.aliases),
        "residency": {name: list(places) for name, places in rules.residency.items()},
        "drained": list(rules.drained),
    }


def _region_body(row: RegionRow) -> dict[str, object]:
    return {
        "models": {name: _model_body(model) for name, model in row.models.items()},
        "store_bytes_per_s": row.store_bytes_per_s,
        "host_bytes_per_s": row.host_bytes_per_s,
        "origin_bytes_per_s": row.origin_bytes_per_s,
        "attach_s": row.attach_s,
        "behind_bytes": row.behind_bytes,
        "behind_s": row.behind_s,
        "eta_error": row.eta_error,
        "draining": row.draining,
    }


def _model_body(model: ModelRow) -> dict[str, object]:
    error, progress = model.error, model.progress
    return {
        "revision": model.revision,
        "state": model.state,
        "tier": model.tier,
        "kind": model.kind,
        "bytes": model.bytes,
        "max_len": model.max_len,
        "running": model.running,
        "waiting": model.waiting,
        "slots": model.slots,
        "prefill_ms_per_token": model.prefill_ms_per_token,
        "step_ms": model.step_ms,
        "error": error and {"code": error.code, "message": error.message, "next": error.next},
        "left_out": [{"path": each.path, "reason": each.reason} for each in model.left_out],
        "progress": progress
        and {"phase": progress.phase, "percent": progress.percent, "eta_s": progress.eta_s},
        "pushed_s": model.pushed_s,
        "deterministic": model.deterministic,
        "residency": list(model.residency),
        "waits_for": model.waits_for,
    }


# ---- reading


def verify(line: bytes, signers: Signers) -> dict[str, Any]:
    """The envelope of a line whose size, form and signature hold, its body unread; raises RowRefused."""
    if not line:
        raise RowRefused("empty", "an empty line is no row")
    if len(line) > MAX_ROW_BYTES:
        raise RowRefused("oversized", f"{len(line)} bytes, at most {MAX_ROW_BYTES} are taken")
    document = _parse(line)
    signature = document.pop("sig", None)
    if not isinstance(signature, str) or not signature:
        raise RowRefused("unsigned", "the row carries no signature")
    envelope = read(ENVELOPE, document, "row")
    _check_signature(signers.key_for(envelope["kind"], envelope["id"]), signature, document)
    return envelope


def decode(line: bytes, signers: Signers) -> RegionRow | PolicyRow:
    """The row in `line`; raises RowRefused, and nothing else, whatever the bytes are."""
    envelope = verify(line, signers)
    kind, body = envelope.pop("kind"), envelope.pop("body")
    if kind == "policy":
        return PolicyRow(**envelope, **read(POLICY, body, "policy body", POLICY_LATER))
    return RegionRow(**envelope, **read(REGION, body, "region body"))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line, parse_constant=_no_constant)
        same = canonical(document) == line
    except (ValueError, RecursionError) as error:
        raise RowRefused("not_json", "the line is not one JSON document") from error
    if not isinstance(document, dict):
        raise RowRefused("not_json", "a row is a JSON object")
    if not same:
        raise RowRefused("not_canonical", "keys out of order or twice, spaces, or odd escapes")
    return document


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _check_signature(key: Ed25519PublicKey, signature: str, document: dict[str, Any]) -> None:
    try:
        key.verify(bytes.fromhex(signature), canonical(document))
    except (InvalidSignature, ValueError) as error:
        raise RowRefused("bad_signature", "not signed by the region it names") from error


# ---- folding


@dataclass(frozen=True, slots=True)
class Heard:
    """A region's last valid row, its line, and when it was last heard (monotonic s; NEVER from disk).

    `offers` are what its models cost, and `kept` the places that some of them are kept in: worked out once with the
    row, so that no request has to.
    """

    row: RegionRow
    line: bytes
    at: float
    offers: Mapping[str, Offer] = field(default_factory=lambda: NOT_YET)
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.offers is NOT_YET:
            kept = {name: model.residency for name, model in self.row.models.items() if model.residency}
            object.__setattr__(self, "offers", offers(self.row))
            object.__setattr__(self, "kept", MappingProxyType(kept))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an edge knows: the last valid row of each region, and the last valid policy with its line."""

    regions: Mapping[str, Heard] = field(default_factory=lambda: MappingProxyType({}))
    policy: PolicyRow | None = None
    policy_line: bytes = b""

    def lines(self) -> tuple[bytes, ...]:
        """Every line in force, policy first: what is kept on disk and folded again at the next start."""
        policy = (self.policy_line,) if self.policy_line else ()
        return policy + tuple(heard.line for heard in self.regions.values())


def fold(
    snapshot: Snapshot,
    line: bytes,
    signers: Signers,
    *,
    now: float,
    source: str | None = None,
    wall_ms: float = math.inf,
) -> Snapshot:
    """The snapshot after one line; raises RowRefused, and then the old snapshot stays in force.

    Args:
        snapshot: what is known so far; not changed.
        line: one line of a region's stream or of the disk, without its newline.
        signers: whose signatures count.
        now: monotonic seconds; NEVER for a line from disk.
        source: the region whose stream this is: it may pass on the policy, but speak only for itself.
        wall_ms: since 1970. A row of a later epoch is refused: were it taken, all true ones after it would be older.
    """
    if line == snapshot.policy_line and line:
        return snapshot
    again = None if source is None else snapshot.regions.get(source)
    if again is not None and again.line == line and line:  # said again: signed by it, and taken, before
        return _with(snapshot, replace(again, at=now))
    row = decode(line, signers)
    if row.epoch > wall_ms + MAX_AHEAD_MS:
        raise RowRefused(
            "future", f"{row.id} says that it began {(row.epoch - wall_ms) / 1e3:.0f} s from now"
        )
    if isinstance(row, PolicyRow):
        _refuse_older(row, snapshot.policy)
        return replace(snapshot, policy=row, policy_line=line)
    if source is not None and row.id != source:
        raise RowRefused("wrong_region", f"{source} passed on a row of {row.id}")
    known = snapshot.regions.get(row.id)
    if known is None or known.line != line:
        last = known.row if known else None
        _refuse_older(row, last)
        _refuse_emptied(row, last)
    return _with(snapshot, Heard(row, line, now))


def _with(snapshot: Snapshot, heard: Heard) -> Snapshot:
    return replace(snapshot, regions=MappingProxyType({**snapshot.regions, heard.row.id: heard}))


def _refuse_older(row: RegionRow | PolicyRow, known: RegionRow | PolicyRow | None) -> None:
    if known is not None and (row.epoch, row.seq) <= (known.epoch, known.seq):
        at, last = f"{row.epoch}.{row.seq}", f"{known.epoch}.{known.seq}"
        raise RowRefused("older", f"row {at} of {row.id} is not newer than {last}")


def _refuse_emptied(row: RegionRow, known: RegionRow | None) -> None:
    """A restarted region speaks only after it has read its pointers; all models gone is a fault."""
    if known is not None and known.models and not row.models and row.epoch != known.epoch:
        raise RowRefused("empty", f"{row.id} restarted without any of its {len(known.models)} models")
