"""Rows for tests: everything has a usual value, a test names what it is about."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from regions.map.policy import KeyGrant, PolicyRow
from regions.map.region import ModelRow, RegionRow, RolloutState, Tier
from regions.rows import Heard, Signers, public_bytes

MODEL = "acme/m"
KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32)
    for i, name in enumerate(("iad", "fra", "nrt"))
}
SIGNERS = Signers.of({name: public_bytes(key) for name, key in KEYS.items()}, "iad")


def model_row(**changes):
    usual = {
        "revision": "a" * 64,
        "state": RolloutState.LIVE,
        "tier": Tier.RESIDENT,
        "kind": "generate",
        "bytes": 1_000_000_000,
        "max_len": 4096,
        "slots": 8,
        "prefill_ms_per_token": 0.1,
        "step_ms": 10.0,
    }
    return ModelRow(**{**usual, **changes})


def region_row(name="iad", *, epoch=1, seq=1, models=None, **changes):
    usual = {"store_bytes_per_s": 1e9, "host_bytes_per_s": 4e9, "origin_bytes_per_s": 1e8, "attach_s": 0.5}
    return RegionRow(
        name, epoch, seq, {MODEL: model_row()} if models is None else models, **{**usual, **changes}
    )


def heard(name="iad", at=0.0, row=None, **changes):
    return Heard(region_row(name, models={MODEL: row or model_row()}, **changes), b"", at)


def policy_row(epoch=1, seq=1, digests=("d" * 64,)):
    return PolicyRow(epoch, seq, {digest: KeyGrant("default", frozenset({"infer"})) for digest in digests})
