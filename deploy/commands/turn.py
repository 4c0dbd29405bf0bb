"""`nearfield promote` and `nearfield rollback`: a pointer moves, and regions change over without losing a request."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.client import Client
from deploy.faults import NotLive
from deploy.models import pointing, watch
from deploy.models.standing import Standing, standings
from deploy.terminal import show
from deploy.trust.credentials import Credentials
from regions.map.names import base_of, is_preview
from regions.objects.pointer import KEPT_PREVIOUS, Pointer, new_pointer


@dataclass(frozen=True, slots=True)
class Turn:
    """How a command goes about it; `wait_s` 0: return once the pointer has moved."""

    wait_s: float
    as_json: bool


def promote(credentials: Credentials, preview: str, turn: Turn, *, canary: bool) -> None:
    """The model serves what its preview serves; at once where that was proven in each of the model's regions.

    Raises NotLive: there is no such preview, or it is not proven.
    """
    if not is_preview(preview):
        raise NotLive("not_found", f"{preview} is no preview", f"nearfield promote {preview}@NAME")
    model = base_of(preview)
    there, _ = pointing.read(credentials, preview, model)
    if there is None:
        raise NotLive("not_found", f"there is no preview {preview}", "nearfield ls")
    client = Client(credentials, admin=True)
    seen = standings(client.get("/nearfield/status").body, preview)
    _refuse_unproven(there, seen)

    def turned(pointer: Pointer | None, now_s: int) -> Pointer:
        if pointer is None:
            return new_pointer(there, now_s)
        wanted = [region for region in seen if pointer.names(region)]
        is_proven = all(seen[region].live and seen[region].revision == there.revision for region in wanted)
        return pointer.promoted(there, now_s, at_once=is_proven and not canary)

    _turn(credentials, client, pointing.move(credentials, model, turned), turn, preview)


def rollback(credentials: Credentials, model: str, wanted: str | None, turn: Turn) -> None:
    """The model serves an earlier revision again. Raises NotLive: there is none."""
    (pointer,) = pointing.read(credentials, model)
    if pointer is None:
        raise NotLive("not_found", f"there is no model {model}", "nearfield ls")
    kept = pointer.previous[:KEPT_PREVIOUS]
    known = dict(zip(kept, pointing.proofs(credentials, *kept), strict=True))
    revision = pointing.earlier(pointer, wanted, known)
    serial = pointer.serial

    def turned(now: Pointer | None, now_s: int) -> Pointer:
        if now is None or now.serial != serial:
            raise NotLive("busy", f"{model} was moved at the same moment", f"nearfield revisions {model}")
        return now.turned(revision, now_s)

    _turn(credentials, Client(credentials, admin=True), pointing.move(credentials, model, turned), turn, "")


def _refuse_unproven(preview: Pointer, seen: Mapping[str, Standing]) -> None:
    """A preview goes on only if all its regions serve what its pointer names. Raises NotLive."""
    for region, where in seen.items():
        if preview.names(region) and not (where.live and where.revision == preview.revision):
            why = where.error["message"] if where.error else f"it is {where.state} there"
            then = where.error["next"] if where.error else "nearfield ls"
            raise NotLive("not_proven", f"{preview.model} is not proven in {region}: {why}", then)


def _turn(credentials: Credentials, client: Client, moved: pointing.Moved, turn: Turn, preview: str) -> None:
    """Says what moved; then waits until each region serves it."""
    pointer, console = moved.pointer, show.console(quiet=turn.as_json)
    result: dict[str, Any] = {
        "model": pointer.model,
        "preview": preview or None,
        "revision": pointer.revision,
        "before": moved.before or None,
        "move_s": moved.seconds,
    }
    console.print(
        f"{pointer.model}: {moved.before[:16] or 'nothing'} → {pointer.revision[:16]}, "
        f"the pointer moved in {show.millis(1e3 * moved.seconds)}"
    )
    if turn.wait_s > 0:
        result |= _waited(credentials, client, pointer, turn.wait_s)
        where = ", ".join(result["live"])
        console.print(
            f"[bold green]live[/] in {where} after {show.millis(1e3 * result['live_s'])}: "
            f"{credentials.base_url}  model={pointer.model}"
        )
    if turn.as_json:
        show.emit_json(result)


def _waited(credentials: Credentials, client: Client, pointer: Pointer, wait_s: float) -> dict[str, Any]:
    """Until all its regions serve it; requests are answered by the revision before until then. Raises NotLive."""

    def still_named() -> None:
        pointing.check_named(credentials, pointer.model, pointer.revision)

    began = time.monotonic()
    live = watch.until_live(
        client,
        pointer.model,
        watch.Move(pointer.revision, pointer.pushed_s),
        pointer.regions,
        lambda _now: None,
        wait_s,
        still_named,
    )
    return {"live": sorted(live), "live_s": time.monotonic() - began}
