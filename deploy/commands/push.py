"""`nearfield push`: the plan, the bytes going up, and each region until the model is live there."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from deploy import push, show, watch
from deploy.client import Client
from deploy.credentials import Credentials
from regions.map import BadNameError, ModelName


def run(
    credentials: Credentials,
    folder: Path,
    model: str,
    regions: tuple[str, ...] | None,
    wait_s: float,
    *,
    as_json: bool,
) -> None:
    """Push `folder` as `model`; with `wait_s` above 0 return only when it is live, or say why it is not.

    Raises:
        PushRefused: before any byte moved, by the same rules the platform applies.
        NotLive: the platform refused it, its probe failed, or time ran out.
    """
    console = Console(quiet=True) if as_json else show.console()
    _check(credentials, model, regions)
    planned = push.plan(folder, model, tuple(credentials.regions))
    _say_plan(console, planned, regions or tuple(credentials.regions))
    with _bar(console, planned.num_bytes) as advance:
        push_id = push.upload(planned, credentials, regions, advance)
    result: dict[str, object] = {"model": model, "push_id": push_id, "bytes": planned.num_bytes}
    if wait_s > 0:
        result |= _wait(console, credentials, model, regions, wait_s)
    else:
        console.print("  uploaded; see it go live: nearfield ls")
    if as_json:
        show.emit_json(result)


def _check(credentials: Credentials, model: str, regions: tuple[str, ...] | None) -> None:
    try:
        ModelName.parse(model)
    except BadNameError as error:
        raise push.PushRefused(
            "bad_name", str(error), "Name it ORG/NAME, for example acme/my-model."
        ) from error
    unknown = [r for r in regions or () if r not in credentials.regions]
    if unknown:
        known = ", ".join(credentials.regions)
        raise push.PushRefused("unknown_region", f"no region {unknown[0]!r}", f"There are: {known}.")


def _say_plan(console: Console, planned: push.PushPlan, regions: tuple[str, ...]) -> None:
    num = len(planned.files)
    console.print(
        f"[bold]{planned.model}[/]: {num} files, {show.size(planned.num_bytes)} → {', '.join(regions)}"
    )
    for path, reason in planned.left_out.items():
        console.print(f"  left out: {path} ({reason})", style="yellow")


@contextmanager
def _bar(console: Console, total: int) -> Iterator[push.OnBytes]:
    columns = (
        TextColumn("  uploading"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("upload", total=total)
        yield lambda num: bar.advance(task, num)


def _wait(
    console: Console, credentials: Credentials, model: str, regions: tuple[str, ...] | None, wait_s: float
) -> dict[str, object]:
    def changed(now: Mapping[str, watch.Standing]) -> None:
        console.print("  " + "   ".join(f"{r} {_words(s)}" for r, s in now.items()))

    revision = asyncio.run(watch.committed(credentials, model, wait_s))
    console.print(f"  revision {revision[:16]}")
    client = Client(credentials, admin=True)
    live = watch.until_live(client, model, revision, regions, changed, wait_s)
    console.print(f"[bold green]live[/] in {', '.join(live)}: {credentials.base_url}  model={model}")
    console.print(f"  try: nearfield chat {model} 'Hello'")
    return {"revision": revision, "live": sorted(live)}


def _words(standing: watch.Standing) -> str:
    if standing.state == "absent":
        return "waiting"
    percent = "" if standing.percent is None or standing.live else f" {standing.percent:.0f}%"
    return f"{standing.state}{percent}"
