"""One API key as an object of `nearfield-system`: its digest and what it grants, never the key. Pure."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Any, Final

from regions.map.headers import KEY_ID_CHARS
from regions.map.names import DEPLOYED_PATTERN, MAX_DEPLOYED_CHARS, is_digest
from regions.map.policy import ALL_MODELS, MAX_KEY_MODELS, KeyGrant, Quota
from weights_cache.model.strict import (
    StrictError,
    Table,
    fields,
    hexadecimal,
    integer,
    one_of,
    parse,
    several,
    text,
)

SCHEMA: Final = "nearfield.key/2"
FIRST_SCHEMA: Final = "nearfield.key/1"  # no models, end, quota or time: all models, for ever, unbounded
MAX_RECORD_BYTES: Final = 16 << 10
MAX_COUNT: Final = 1_000_000_000  # requests or tokens a minute: more than any edge serves
MAX_WEIGHT: Final = 100
MAX_STREAMS: Final = 100_000
KEY_BYTES: Final = 32  # 256 bits: nobody guesses one
ID_CHARS: Final = KEY_ID_CHARS  # of the digest: 6,000 keys meet by chance with a probability of 6e-8
SCOPES: Final = ("infer", "admin")
TENANT: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
PATTERN: Final = rf"\*|[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}/\*|{DEPLOYED_PATTERN}"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key: `digest` is its SHA-256 in hex, `created_s` seconds since 1970 (0: before that was kept)."""

    digest: str
    name: str
    grant: KeyGrant
    created_s: int = 0

    @property
    def id(self) -> str:
        """What people and logs call the key by: the beginning of its digest, worth nothing to a thief."""
        return self.digest[:ID_CHARS]


def new_key() -> str:
    """A fresh API key; the platform keeps only its digest."""
    return "nf-" + secrets.token_urlsafe(KEY_BYTES)


def digest(key: str) -> str:
    """How a key is stored and looked up: its whole SHA-256, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_record(data: bytes) -> KeyRecord:
    """The record in an object of either schema. Raises StrictError."""
    value = parse(data, MAX_RECORD_BYTES)
    first = isinstance(value, dict) and value.get("schema") == FIRST_SCHEMA
    read = fields(value, _FIRST if first else _TABLE, "key")
    if not is_digest(read["digest"]):
        raise StrictError("key.digest is no SHA-256")
    grant = KeyGrant(
        read["tenant"],
        frozenset(read["scopes"]),
        read.get("models", ALL_MODELS),
        read.get("expires_s", 0),
        read.get("quota", Quota()),
    )
    return KeyRecord(read["digest"], read["name"], grant, read.get("created_s", 0))


def write_record(record: KeyRecord) -> bytes:
    """The object of a record."""
    return json.dumps({"schema": SCHEMA, "digest": record.digest, **told(record)}, sort_keys=True).encode()


def told(record: KeyRecord) -> dict[str, Any]:
    """Everything about a key but its digest, as plain values."""
    grant = record.grant
    return {
        "tenant": grant.tenant,
        "name": record.name,
        "scopes": sorted(grant.scopes),
        "models": list(grant.models),
        "expires_s": grant.expires_s,
        "created_s": record.created_s,
        "quota": {
            "requests_per_min": grant.quota.requests_per_min,
            "tokens_per_min": grant.quota.tokens_per_min,
            "streams": grant.quota.streams,
            "weight": grant.quota.weight,
        },
    }


def quota(value: object, where: str) -> Quota:
    """A reader of quotas. Raises StrictError."""
    return Quota(**fields(value, _QUOTA, where))


_QUOTA: Final[Table] = {
    "requests_per_min": integer(0, MAX_COUNT),
    "tokens_per_min": integer(0, MAX_COUNT),
    "streams": integer(0, MAX_STREAMS),
    "weight": integer(1, MAX_WEIGHT),
}
GRANTED: Final[Table] = {
    "tenant": text(100, TENANT),
    "name": text(200),
    "scopes": several(one_of(*SCOPES), len(SCOPES)),
    "models": several(text(MAX_DEPLOYED_CHARS, PATTERN), MAX_KEY_MODELS),
    "expires_s": integer(0),
    "quota": quota,
}
_FIRST: Final[Table] = {
    "schema": one_of(FIRST_SCHEMA),
    "digest": hexadecimal(64),
    **{name: GRANTED[name] for name in ("tenant", "name", "scopes")},
}
_TABLE: Final[Table] = {
    "schema": one_of(SCHEMA),
    "digest": hexadecimal(64),
    "created_s": integer(0),
    **GRANTED,
}
