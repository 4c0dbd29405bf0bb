"""`/v1/models` from the rows: what is served, and where. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regions.ask import NO_ALIASES
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.map.policy import KeyGrant
    from regions.map.region import ModelRow
    from regions.rows import Snapshot


def listing(
    snapshot: Snapshot, pinned: str | None, grant: KeyGrant, aliases: Mapping[str, str] = NO_ALIASES
) -> dict[str, Any]:
    """OpenAI's list of the models that some region (or region `pinned`) serves and the key may use; then aliases."""
    names = sorted({name for each in _rows(snapshot, pinned).values() for name in each if grant.names(name)})
    data = [_model(name, _where(snapshot, pinned, name)) for name in names]
    for alias, name in sorted(aliases.items()):
        if not grant.names(name):
            continue
        meant = _model(name, _where(snapshot, pinned, name))
        data.append({**meant, "id": alias, "nearfield": {**meant["nearfield"], "alias_of": name}})
    return {"object": "list", "data": [each for each in data if each["nearfield"]["regions"]]}


def one(snapshot: Snapshot, pinned: str | None, grant: KeyGrant, model: str) -> dict[str, Any]:
    """OpenAI's model object. Raises Refusal 404 if no region serves it, or the key may not use it."""
    found = _model(model, _where(snapshot, pinned, model))
    if not found["nearfield"]["regions"] or not grant.names(model):
        raise Refusal(404, "model_not_found", "No such model; GET /v1/models lists them.", param="model")
    return found


def _rows(snapshot: Snapshot, pinned: str | None) -> dict[str, dict[str, ModelRow]]:
    return {
        name: dict(heard.row.models)
        for name, heard in snapshot.regions.items()
        if pinned is None or name == pinned
    }


def _where(snapshot: Snapshot, pinned: str | None, model: str) -> dict[str, ModelRow]:
    rows = {region: models.get(model) for region, models in _rows(snapshot, pinned).items()}
    return {region: row for region, row in rows.items() if row is not None and row.serves}


def _model(name: str, where: dict[str, ModelRow]) -> dict[str, Any]:
    row = next(iter(where.values()), None)
    return {
        "id": name,
        "object": "model",
        "created": max((each.pushed_s for each in where.values()), default=0),
        "owned_by": name.partition("/")[0],
        "nearfield": {
            "kind": row.kind if row else None,
            "max_len": row.max_len if row else None,
            "deterministic": row.deterministic if row else False,
            "regions": {
                region: {"state": str(each.state), "tier": str(each.tier), "revision": each.revision}
                for region, each in where.items()
            },
        },
    }
