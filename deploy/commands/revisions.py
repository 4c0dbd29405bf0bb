"""`nearfield revisions`: what a model serves, what it served before, and what each proved in each region."""

import sys
import time

from deploy.faults import NotLive
from deploy.models import pointing
from deploy.models.pointing import Proofs
from deploy.terminal import columns, show
from deploy.terminal.columns import Cell
from deploy.trust.credentials import Credentials
from regions.objects.pointer import KEPT_PREVIOUS, Pointer
from regions.objects.proof import Proof

HEAD = ("revision", "", "region", "proof", "start", "cold", "warm", "from afar", "at")
SHOWN_DIGITS = 16


def show_all(credentials: Credentials, model: str, *, as_json: bool) -> None:
    """Newest first. Raises NotLive: there is no such model."""
    (pointer,) = pointing.read(credentials, model)
    if pointer is None:
        raise NotLive("not_found", f"there is no model {model}", "nearfield ls")
    ids = (pointer.revision, *pointer.previous)
    proofs = dict(zip(ids, pointing.proofs(credentials, *ids), strict=True))
    if as_json:
        show.emit_json(
            {
                "model": model,
                "revisions": [
                    {"revision": each, "role": _role(pointer, each), "proofs": _values(proofs[each])}
                    for each in ids
                ],
            }
        )
        return
    rows = [row for each in ids for row in _rows(pointer, each, proofs[each])]
    sys.stdout.write(columns.table(HEAD, rows, colours=columns.has_colours(), width=columns.room()))


def _role(pointer: Pointer, revision: str) -> str:
    """`current`, `kept` (a roll back may name it), or `gone` (its bytes are)."""
    if revision == pointer.revision:
        return "current"
    return "kept" if revision in pointer.previous[:KEPT_PREVIOUS] else "gone"


def _values(proofs: Proofs) -> list[dict[str, object]]:
    return [proofs[region].as_value() for region in sorted(proofs)]


def _rows(pointer: Pointer, revision: str, proofs: Proofs) -> list[tuple[Cell, ...]]:
    head = (Cell(revision[:SHOWN_DIGITS]), Cell(_role(pointer, revision)))
    rest = [_cells(proofs[region]) for region in sorted(proofs)] or [(Cell("-"),) * (len(HEAD) - 2)]
    blank = (Cell(""), Cell(""))
    return [(*(blank if at else head), *cells) for at, cells in enumerate(rest)]


def _cells(proof: Proof) -> tuple[Cell, ...]:
    word = Cell("proven", "green") if proof.ok else Cell(proof.fault.code if proof.fault else "failed", "red")
    figures = (
        proof.start or "-",
        _seconds(proof.cold_s),
        _seconds(proof.warm_s),
        show.size(proof.remote_bytes),
    )
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(proof.at_s))
    return (Cell(proof.region), word, *map(Cell, figures), Cell(f"{at} UTC"))


def _seconds(seconds: float | None) -> str:
    return show.millis(None if seconds is None else 1e3 * seconds)
