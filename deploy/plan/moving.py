"""What moves during a push, as it moves: bytes, GB/s, ETA and where the bytes come from. Bars on a terminal only."""

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from deploy.models.standing import Standing
from deploy.plan.plan import Plan
from deploy.terminal import show

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

SOURCES: Mapping[str, str] = {
    "pushed": "bucket → home",
    "verified": "home → {region}'s store",
    "replicated": "{region}'s store → host",
    "warming": "{region}'s store → host",
    "live": "there",
}
"""By what a region says of the model: the way that its bytes take just then."""


BAR_FROM, TIME_FROM = 76, 66
"""Columns of a terminal; figures and the way of the bytes need 66 with the time, 58 without."""


class Moving:
    """A bar for the upload and one a region; off a terminal a line for each change."""

    def __init__(self, console: "Console", plan: Plan) -> None:
        self._console, self._plan = console, plan
        self._bars: Progress | None = None
        self._upload: TaskID | None = None
        self._regions: dict[str, TaskID] = {}
        self._said = ""
        self._lock = threading.Lock()
        self.kept_bytes = 0
        """Of the upload, what a push before this one had sent."""

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._console.is_terminal:
            self._bars = _bars(self._console)
            self._bars.start()
            self._upload = self._bars.add_task(
                "upload", total=self._plan.push.upload_bytes, way="disk → bucket"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Leave the bars as they stand."""
        if self._bars is not None:
            self._bars.stop()

    def sent(self, num_bytes: int) -> None:
        """So many bytes more went up; from any thread."""
        if self._bars is not None and self._upload is not None:
            self._bars.advance(self._upload, num_bytes)

    def kept(self, num_bytes: int) -> None:
        """So many bytes need not go up: they are there; from any thread."""
        with self._lock:
            self.kept_bytes += num_bytes
        self.sent(num_bytes)

    def uploaded(self) -> None:
        """All of it is up."""
        if self.kept_bytes:
            self.remark(f"{show.size(self.kept_bytes)} of it were there already, from a push that was cut")

    def remark(self, line: str) -> None:
        """Say something besides."""
        self._console.print(f"  {line}", markup=False)

    def committed(self, revision: str, *, is_shared: bool = False) -> None:
        """The platform took the files as one revision; maybe those of another push, which were the same."""
        same = ": another push brought the same files at the same moment" if is_shared else ""
        self._console.print(f"  revision {revision[:16]}{same}")

    def changed(self, now: Mapping[str, Standing]) -> None:
        """What each region says just now."""
        if self._bars is None:
            self._say("  " + "   ".join(f"{region} {words(where)}" for region, where in now.items()))
            return
        for region, where in now.items():
            self._show(self._bars, region, where)

    def _say(self, line: str) -> None:
        """A line that says what the one before it did not."""
        if line != self._said:
            self._console.print(line, markup=False)
        self._said = line

    def _show(self, bars: "Progress", region: str, where: Standing) -> None:
        if region not in self._regions:
            self._regions[region] = bars.add_task(region, total=self._plan.push.num_bytes, way="")
        share = 1.0 if where.live else (where.percent or 0.0) / 100
        done = share * self._plan.push.num_bytes
        bars.update(self._regions[region], completed=done, way=way_of(where))


def way_of(where: Standing) -> str:
    """Where the bytes come from and go to, by the step that a region is at; or what keeps them."""
    if where.error is not None and not where.live:
        return where.error["message"]
    return SOURCES.get(where.state, where.state).format(region=where.region)


def words(where: Standing) -> str:
    """One region in a line."""
    if where.state == "absent":
        return "waiting"
    if where.live:
        return "live"
    if where.error is not None:
        return f"{where.state} ({way_of(where)})"
    percent = "" if where.percent is None else f" {where.percent:.0f}%"
    eta = "" if where.eta_s is None else f", {show.millis(1e3 * where.eta_s)} to go"
    return f"{where.state}{percent} ({way_of(where)}{eta})"


def _bars(console: "Console") -> "Progress":
    """A line for each of what moves; on a narrow terminal first the bar goes, then the time that is left."""
    from rich.progress import (  # noqa: PLC0415 - on a terminal only
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column  # noqa: PLC0415 - as above

    whole = Column(no_wrap=True)
    return Progress(
        TextColumn("  {task.description:<10}"),
        *([BarColumn()] if console.width >= BAR_FROM else []),
        DownloadColumn(table_column=whole),
        TransferSpeedColumn(table_column=whole),
        *([TimeRemainingColumn(table_column=whole)] if console.width >= TIME_FROM else []),
        TextColumn("{task.fields[way]}", markup=False),
        console=console,
    )
