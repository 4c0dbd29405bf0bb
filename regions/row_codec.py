"""Rows on the wire: signed lines of canonical JSON, made and read one by one.

A line is `{"kind","id","epoch","seq","body","sig"}`; `sig` is Ed25519 over the canonical JSON of the rest. A row of
many models is several lines of one number (`part`), and what a region says between whole rows are changes to the last
of them (`change`, `since` its number). A model's fields are left out where they have their default.
Every refusal has a code and leaves the last good row in force: a bad map can make an edge stale, never wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from regions.map.policy import POLICY_ID, PolicyRow
from regions.map.region import MAX_PARTS, MAX_ROW_BYTES, ModelRow, RegionRow
from regions.policy_fields import POLICY, POLICY_LATER
from regions.region_fields import CHANGE, REGION, REGION_LATER
from regions.row_bodies import body_with, model_bodies, model_body, policy_body
from regions.row_fields import ENVELOPE, RowRefused, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


PART_BYTES: Final = 64 << 10  # of models in one part of a row: an edge reads it within a few ms


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
    """The signed line of `row`, whole, without its newline; raises RowRefused when it is too long to be taken."""
    if isinstance(row, PolicyRow):
        return _sealed("policy", row, policy_body(row), key)
    return _sealed("region", row, body_with(row, model_bodies(row.models)), key)


def encode_whole(row: RegionRow, key: Ed25519PrivateKey) -> tuple[bytes, ...]:
    """The lines of a whole row, one unless it has many models; raises RowRefused when they are too many."""
    parts = list(_parts(row.models))
    if len(parts) > MAX_PARTS:
        raise RowRefused("oversized", f"the row has {len(parts)} parts, at most {MAX_PARTS} are taken")
    if len(parts) == 1:
        return (_sealed("region", row, body_with(row, parts[0]), key),)
    return tuple(
        _sealed("region", row, {**body_with(row, models), "part": [index, len(parts)]}, key)
        for index, models in enumerate(parts)
    )


def encode_change(row: RegionRow, base: RegionRow, changed: set[str], key: Ed25519PrivateKey) -> bytes:
    """The line that makes `row` of `base`, whose models differ in `changed`; raises RowRefused if it is too long."""
    models = {name: row.models[name] for name in changed if name in row.models}
    body = {
        **body_with(row, model_bodies(models)),
        "since": base.seq,
        "gone": sorted(changed - row.models.keys()),
    }
    return _sealed("change", row, body, key)


def _sealed(kind: str, row: RegionRow | PolicyRow, body: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    document = {"kind": kind, "id": row.id, "epoch": row.epoch, "seq": row.seq, "body": body}
    said = canonical(document)
    line = said[:-1] + b',"sig":"%b"}' % key.sign(said).hex().encode()
    if len(line) > MAX_ROW_BYTES:
        raise RowRefused("oversized", f"the row has {len(line)} bytes, at most {MAX_ROW_BYTES} are taken")
    return line


def _parts(models: Mapping[str, ModelRow]) -> Iterator[dict[str, object]]:
    """The bodies of models, in pieces of about PART_BYTES; at least one piece."""
    part: dict[str, object] = {}
    num_bytes = 0
    for name, model in models.items():
        body = model_body(model)
        size = len(canonical(body)) + len(name)
        if part and num_bytes + size > PART_BYTES:
            yield part
            part, num_bytes = {}, 0
        part[name] = body
        num_bytes += size
    yield part


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
    _check_signature(signers.key_for(envelope["kind"], envelope["id"]), signature, line)
    return envelope


@dataclass(frozen=True, slots=True)
class Part:
    """Piece `index` of the `count` that a whole row has: `row` with some of its models."""

    row: RegionRow
    index: int
    count: int


@dataclass(frozen=True, slots=True)
class Change:
    """What became of the whole row with the number `since`: `row` has the models that differ; `gone` are no more."""

    row: RegionRow
    since: int
    gone: frozenset[str]


Said = RegionRow | PolicyRow | Part | Change


def decode(line: bytes, signers: Signers) -> Said:
    """What `line` says; raises RowRefused, and nothing else, whatever the bytes are."""
    envelope = verify(line, signers)
    kind, body = envelope.pop("kind"), envelope.pop("body")
    if kind == "policy":
        return PolicyRow(**envelope, **read(POLICY, body, "policy body", POLICY_LATER))
    if kind == "change":
        said = read(CHANGE, body, "change")
        since, gone = said.pop("since"), said.pop("gone")
        return Change(RegionRow(**envelope, **said), since, gone)
    said = read(REGION, body, "region body", REGION_LATER)
    part = said.pop("part", None)
    row = RegionRow(**envelope, **said)
    return row if part is None else Part(row, *part)


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


def _check_signature(key: Ed25519PublicKey, signature: str, line: bytes) -> None:
    """Of all before it: `sig` is the last field of a canonical line, and its name is in no string unescaped."""
    try:
        key.verify(bytes.fromhex(signature), line[: line.rindex(b',"sig":')] + b"}")
    except (InvalidSignature, ValueError) as error:
        raise RowRefused("bad_signature", "not signed by the region it names") from error
