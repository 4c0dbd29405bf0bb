"""Follows a model from its push to live everywhere: what the regions' rows say, until it is so or refused."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from deploy.client import Client
from deploy.faults import NotLive, Silent
from deploy.models import push
from deploy.models.standing import Standing, standings, why
from deploy.terminal.patience import SAY_AFTER_S, Silence
from deploy.trust.credentials import Credentials
from regions.push.manifest import Manifest
from storage.client.sdk import S3, StoreError

POLL_S = 0.25
ONE_LOOK_S = SAY_AFTER_S
LOOK_S = 2.0  # between looks at what the pointer names: one object is read from the home region for each


@dataclass(frozen=True, slots=True)
class Move:
    """A move of the pointer that is waited for: to which revision, and the `pushed_s` that it gave the pointer.

    `pushed_s` is 0 where the home region's version does not say it: then rows from before the move count too.
    """

    revision: str
    pushed_s: int = 0
    is_shared: bool = False
    """Another push brought the same files meanwhile."""


async def committed(
    credentials: Credentials, model: str, deadline_s: float, pushed: Manifest | None = None
) -> Move:
    """Wait for the platform's word on the files just pushed; returns the move that they caused.

    With `pushed`, the manifest that the push wrote, the word on another push's files is not taken for it.

    Raises:
        NotLive: refused, with the platform's reason; another push came over it; or no word within `deadline_s`.
    """
    end = time.monotonic() + deadline_s
    async with S3(push.endpoint(credentials)) as store:
        silence = Silence(credentials.home_store, deadline_s)
        while time.monotonic() < end:
            status, is_shared = await _said(store, model, pushed, silence)
            if status is not None and status["state"] == "refused":
                raise NotLive(status["code"], status["message"], status["next"])
            if status is not None and status.get("revision"):
                return Move(status["revision"], status.get("pushed_s", 0), is_shared)
            await asyncio.sleep(POLL_S)
    raise NotLive("timeout", f"no word on {model} after {deadline_s:.0f} s", "nearfield doctor")


async def _is_shared(store: S3, model: str, pushed: Manifest) -> bool:
    """Whether another push brought the same files as this one meanwhile.

    Raises NotLive: the platform's word is of another push, whose files lie over those of this one.
    """
    found, _etag = await push.lying_manifest(store, model)
    if found is not None and found.is_same_model(pushed):
        return found.push_id != pushed.push_id
    cause = "another push came over this one" if found else "it was removed meanwhile"
    raise NotLive("overtaken", f"{model}: {cause}", f"nearfield revisions {model}")


async def _said(
    store: S3, model: str, pushed: Manifest | None, silence: Silence
) -> tuple[Mapping[str, Any] | None, bool]:
    """The status object, and whether two pushes share it; none yet too while the store is silent. Raises NotLive."""
    try:
        async with asyncio.timeout(ONE_LOOK_S):
            status = await push.read_status(store, model)
            is_shared = status is not None and pushed is not None and await _is_shared(store, model, pushed)
    except StoreError as error:
        if 400 <= error.status < 500:
            raise
    except TimeoutError:
        pass
    else:
        silence.heard()
        return status, is_shared
    with suppress(Silent):  # the end of the whole wait, which has words of its own
        silence.look()
    return None, False


def until_live(
    client: Client,
    model: str,
    move: Move,
    regions: tuple[str, ...] | None,
    on_change: Callable[[Mapping[str, Standing]], None],
    deadline_s: float,
    still_named: Callable[[], None] = lambda: None,
) -> dict[str, Standing]:
    """Poll until what `move` named for `model` is live in `regions` (in all of them if None).

    What a region says counts once it has heard of the move: before, it spoke of another revision.
    `still_named` is asked now and then and raises where the wait is over, since the model is to serve another one.

    Raises:
        NotLive: it failed its start or its probe, or was not there when `deadline_s` was over.
    """
    end, seen = time.monotonic() + deadline_s, None
    look_at = time.monotonic() + LOOK_S
    while time.monotonic() < end:
        now = standings(client.get("/nearfield/status").body, model)
        wanted = {r: s for r, s in now.items() if regions is None or r in regions}
        if wanted != seen:
            on_change(wanted)
            seen = wanted
        heard = {region: s for region, s in wanted.items() if s.pushed_s >= move.pushed_s}
        if wanted == heard and heard and all(s.live and s.revision == move.revision for s in heard.values()):
            return heard
        _raise_failed(heard)
        if time.monotonic() > look_at:
            still_named()
            look_at = time.monotonic() + LOOK_S
        time.sleep(POLL_S)
    raise _late(deadline_s, (seen or {}).values())


def _late(deadline_s: float, seen: Iterable[Standing]) -> NotLive:
    """Who is late, and what it waits for where that was said."""
    late = [where for where in seen if not where.live]
    words = ", ".join(f"{where.region} {where.state}{why(where)}" for where in late)
    steps = (where.error["next"] for where in late if where.error is not None)
    next_step = next(steps, "nearfield status")
    return NotLive("timeout", f"not live after {deadline_s:.0f} s: {words}", next_step)


def _raise_failed(wanted: Mapping[str, Standing]) -> None:
    for s in wanted.values():
        if s.error is not None and s.state in ("failed", "live"):
            rest = f"; {s.revision[:12]} goes on serving there" if s.live and s.revision else ""
            raise NotLive(s.error["code"], f"{s.region}: {s.error['message']}{rest}", s.error["next"])
