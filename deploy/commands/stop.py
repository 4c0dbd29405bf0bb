"""`nearfield stop` and `nearfield rm`: they return when the thing is gone, or say what is still there."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from deploy.client import Client
from deploy.faults import NotLive, NotYours
from deploy.lock import holder
from deploy.models import removing
from deploy.models.standing import models, standings
from deploy.terminal import show
from deploy.trust.credentials import Credentials, NoPlatform
from wire.counted import counted

STOP_DEADLINE_S = 45.0
POLL_S = 0.1


def platform(state: Path, *, as_json: bool) -> None:
    """Ask the `up` that holds `state` to stop, and wait until it has.

    Raises:
        NoPlatform: none runs there.
        NotYours: another user's does.
        NotLive: it still runs after the deadline.
    """
    pid = holder(state)
    if pid is None:
        raise NoPlatform(f"no platform runs in {state}")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise NotYours(f"process {pid}, which runs it, is another user's") from error
    _until(lambda: holder(state) is None, f"process {pid} still runs")
    _say({"stopped": str(state), "pid": pid}, f"stopped (process {pid})", as_json=as_json)


def workers(credentials: Credentials, model: str, *, as_json: bool) -> None:
    """Stop the model's workers in every region that serves it; each answer comes once its slot is free."""
    client = Client(credentials, admin=True)
    where = standings(client.get("/nearfield/status").body, model)
    serving = [region for region, standing in where.items() if standing.live]
    if not serving:
        raise NotLive("not_found", f"{model} is live in no region", "nearfield ls")
    freed = {}
    for region in serving:
        path = f"/nearfield/regions/{region}/cool"
        freed[region] = client.post(path, {"model": model, "to": "host"}).body["freed_bytes"]
    words = ", ".join(f"{region} {show.size(num)}" for region, num in freed.items())
    _say(
        {"model": model, "freed_bytes": freed}, f"workers of {model} stopped; freed: {words}", as_json=as_json
    )


def remove(credentials: Credentials, model: str, *, as_json: bool) -> None:
    """Delete pointer and objects, and wait until no region speaks of the model."""
    client = Client(credentials, admin=True)
    is_known = model in models(client.get("/nearfield/status").body)
    removed = removing.remove(credentials, model)
    if not removed.num_objects and not removed.num_uploads and not is_known:
        raise NotLive("not_found", f"there is no model {model}", "nearfield ls")

    def gone() -> bool:
        return model not in models(client.get("/nearfield/status").body)

    _until(gone, f"a region still speaks of {model}")
    words = f"{model} is gone ({_counted(removed)})"
    left = [each for each in models(client.get("/nearfield/status").body) if each.startswith(f"{model}@")]
    if left:
        words += f"; its previews stay, take them away by: nearfield rm {left[0]}"
    value = {
        "model": model,
        "deleted_objects": removed.num_objects,
        "ended_uploads": removed.num_uploads,
    }
    _say(value, words, as_json=as_json)


def _counted(removed: removing.Removed) -> str:
    objects = counted(removed.num_objects, "object")
    uploads = counted(removed.num_uploads, "upload")
    return f"{objects}, and {uploads} that had been cut" if removed.num_uploads else objects


def _until(done: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + STOP_DEADLINE_S
    while not done():
        if time.monotonic() > end:
            raise NotLive("timeout", f"{otherwise} after {STOP_DEADLINE_S:.0f} s", "nearfield status")
        time.sleep(POLL_S)


def _say(value: dict[str, object], words: str, *, as_json: bool) -> None:
    if as_json:
        show.emit_json(value)
    else:
        show.console().print(words)
