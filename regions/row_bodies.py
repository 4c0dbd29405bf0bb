"""What a row says, as JSON-ready values: the bodies of a region's row, of its models, and of the policy."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Final

from regions.map.region import ModelRow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from regions.map.policy import KeyGrant, PolicyRow, Rules
    from regions.map.region import LeftOutFile, ModelFault, Progress, RegionRow


def model_bodies(models: Mapping[str, ModelRow]) -> dict[str, object]:
    """Models by name, each without what is usual."""
    return {name: model_body(model) for name, model in models.items()}


def policy_body(row: PolicyRow) -> dict[str, object]:
    """A policy row's."""
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


def region_body(row: RegionRow) -> dict[str, object]:
    """A region's row as JSON-ready values, for people: nothing is left out."""
    return body_with(row, {name: _all_of(model) for name, model in row.models.items()})


def body_with(row: RegionRow, models: dict[str, object]) -> dict[str, object]:
    """A region's row with these bodies of models in the place of its own."""
    return {
        "models": models,
        "store_bytes_per_s": row.store_bytes_per_s,
        "host_bytes_per_s": row.host_bytes_per_s,
        "origin_bytes_per_s": row.origin_bytes_per_s,
        "attach_s": row.attach_s,
        "behind_bytes": row.behind_bytes,
        "behind_s": row.behind_s,
        "eta_error": row.eta_error,
        "draining": row.draining,
    }


def model_body(model: ModelRow) -> dict[str, object]:
    """A model without the fields that have their default."""
    body: dict[str, object] = {
        "revision": model.revision,
        "state": model.state,
        "tier": model.tier,
        "kind": model.kind,
        "bytes": model.bytes,
        "max_len": model.max_len,
    }
    for name, usual in _USUAL.items():
        value = getattr(model, name)
        if value != usual:
            body[name] = _VALUES[name](value) if name in _VALUES else value
    return body


def _all_of(model: ModelRow) -> dict[str, object]:
    values = ((each.name, getattr(model, each.name)) for each in fields(ModelRow))
    return {name: _VALUES[name](value) if name in _VALUES else value for name, value in values}


def _fault_body(error: ModelFault | None) -> dict[str, str] | None:
    return None if error is None else {"code": error.code, "message": error.message, "next": error.next}


def _progress_body(progress: Progress | None) -> dict[str, object] | None:
    return (
        None
        if progress is None
        else {"phase": progress.phase, "percent": progress.percent, "eta_s": progress.eta_s}
    )


def _left_out_body(left_out: tuple[LeftOutFile, ...]) -> list[dict[str, str]]:
    return [{"path": each.path, "reason": each.reason} for each in left_out]


# Fields of a model that are left out where they have this value; and those whose value is no plain one.
_USUAL: Final = {each.name: each.default for each in fields(ModelRow) if each.default is not MISSING}
_VALUES: Final[Mapping[str, Callable[[Any], object]]] = {
    "error": _fault_body,
    "left_out": _left_out_body,
    "progress": _progress_body,
    "residency": list,
}
