"""What the region asks of its node: load, unload, inspect, status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from inference.api.fields import array, bad, integer, mapping, number, one_of, string
from inference.api.reply import Reply
from inference.workers.host import Tenure
from weights_cache.model.coverage import DTYPE_BYTES
from weights_cache.model.revision import MAX_DIMS, MAX_FILES, MAX_TENSORS, RevisionError
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.api.fields import Reader
    from inference.api.reply import Outlet
    from inference.workers.host import Host
    from weights_cache.model.known import KnownRevisions
    from weights_cache.model.revision import Revision

MAX_CONTROL_BYTES = 64 * 1024 * 1024
"""A revision of 65,536 tensors is about 46 MB of JSON (weights_cache.model.revision)."""
UNKNOWN_REVISION = "unknown_revision"
MAX_IDLE_S = 366 * 86_400.0
"""A year: whoever wants longer sets min_replicas."""

NDJSON = {"content-type": "application/x-ndjson", "cache-control": "no-store"}


class LoadReply(Reply):
    """`POST /load`: lines of progress, the last one `ready` or `failed`. A caller who leaves stops nothing."""

    def __init__(self, host: Host, revision: Revision, tenure: Tenure) -> None:
        super().__init__()
        self._board = host.load(revision, tenure)

    async def answer(self, outlet: Outlet) -> None:
        """See `Reply`."""
        await outlet.start(200, NDJSON)
        async for line in self._board.lines():
            await outlet.write(json.dumps(line).encode() + b"\n")
        await outlet.write(b"", last=True)


_LOAD: dict[str, Reader[Any]] = {
    "reason": one_of("request", "probe", "prewarm"),
    "idle_timeout_s": number(0, MAX_IDLE_S),
    "min_replicas": integer(0, 1_000),
}
_FILE: dict[str, Reader[Any]] = {"path": string(1_024, 1), "size": integer(0, 2**53), "etag": string(200)}
_TENSOR: dict[str, Reader[Any]] = {
    "name": string(256, 1),
    "dtype": one_of(*DTYPE_BYTES),
    "shape": array(integer(0, 2**53), MAX_DIMS),
}
_INSPECT: dict[str, Reader[Any]] = {
    "bucket": string(63, 3),
    "prefix": string(1_024, 1),
    "files": array(lambda value, param: read_fields(value, _FILE, param, whole=True), MAX_FILES, 1),
    "tensors": array(lambda value, param: read_fields(value, _TENSOR, param, whole=True), MAX_TENSORS, 1),
    "quantize": one_of("int8"),
}


def read_fields(
    body: Any, table: Mapping[str, Reader[Any]], param: str = "", *, whole: bool = False
) -> dict[str, Any]:
    """No field but those of `table`, each read (null and absent ones left out, unless `whole`).

    Raises:
        Refusal: 400.
    """
    found = {}
    for key, value in mapping(body, param or "body").items():
        name = f"{param}.{key}" if param else key
        if key not in table:
            raise bad(name[:80], f"Unknown field {key[:64]!r}.", "unknown_parameter")
        if value is not None:
            found[key] = table[key](value, name)
    if whole and len(found) < len(table):
        missing = next(key for key in table if key not in found)
        raise bad(f"{param}.{missing}", f"Missing {missing!r} in {param!r}.", "missing_required_parameter")
    return found


def read_load(
    body: dict[str, Any], idle_timeout_s: float, revisions: KnownRevisions
) -> tuple[Revision, Tenure]:
    """A body of `/load`; `idle_timeout_s` is the node's own, for a body that names none.

    Raises:
        Refusal: 400, or 409 `unknown_revision` for the id of one that was not sent yet, or is forgotten.
    """
    value = body.pop("revision", None)
    found = read_fields(body, _LOAD)
    revision = _known(value, revisions) if isinstance(value, str) else _read(value, revisions)
    tenure = Tenure(
        idle_timeout_s=found.get("idle_timeout_s", idle_timeout_s),
        min_replicas=found.get("min_replicas", 0),
        reason=found.get("reason", "request"),
    )
    return revision, tenure


def _read(value: object, revisions: KnownRevisions) -> Revision:
    try:
        return revisions.read(value)
    except RevisionError as cause:
        raise bad("revision", f"Not a revision: {cause}") from cause


def _known(revision_id: str, revisions: KnownRevisions) -> Revision:
    revision = revisions.find(revision_id)
    if revision is None:
        text = "This node does not know a revision of that id; send the revision itself."
        raise Refusal(409, UNKNOWN_REVISION, text, param="revision")
    return revision


def read_unload(body: dict[str, Any]) -> tuple[str, bool]:
    """A body of `/unload`: the revision, and whether its weights are to go as well. Raises Refusal (400)."""
    found = read_fields(body, {"revision": string(64, 1), "to": one_of("host", "region")})
    if "revision" not in found:
        raise bad("revision", "Missing required parameter: 'revision'.")
    return found["revision"], found.get("to") == "region"


def read_inspect(body: dict[str, Any]) -> dict[str, Any]:
    """A body of `/inspect`. Raises Refusal (400)."""
    found = read_fields(body, _INSPECT)
    for name in ("bucket", "prefix", "files", "tensors"):
        if name not in found:
            raise bad(name, f"Missing required parameter: {name!r}.")
    return found
