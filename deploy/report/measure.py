"""Runs the report: every region in every start state, one request at a time, and nothing left out."""

import asyncio
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.report.arms import Arm, Start, arms
from deploy.report.document import Report, Settings, Tiers, document
from deploy.report.probe import PATHS, Admin, NotSetError, Probe, Question, model_row, region_body
from deploy.report.sample import Sample, failed
from wire.tls import client_context

PROMPT = "What is Nearfield?"
MAX_TOKENS = 16  # long enough for a rate of tokens, short enough for a quick run
BANDWIDTHS = {
    "remote": "origin_bytes_per_s",
    "region": "store_bytes_per_s",
    "copied": "store_bytes_per_s",  # what the node measured of its last loads, whichever way their bytes came
    "mapped": "store_bytes_per_s",
    "host": "host_bytes_per_s",
}


@dataclass(frozen=True, slots=True)
class ReportTarget:
    """What is measured: one model on one platform.

    ``admin_url`` is the edge's listener for operators, ``pins`` each region's own address, ``ca`` the
    authority that both are checked against. ``num_cold`` requests for each region and cold start state, ``num_warm``
    for each region; ``seed`` fixes their order.
    """

    admin_url: str
    pins: Mapping[str, str]
    ca: Path
    api_key: str = field(repr=False)
    admin_key: str = field(repr=False)
    model: str
    regions: tuple[str, ...]
    num_cold: int = 3
    num_warm: int = 20
    seed: int = 0
    prompt: str = PROMPT
    max_tokens: int = MAX_TOKENS


class _Run:
    """The state of one run: what was asked, which regions are warm, which cannot be at `origin`."""

    def __init__(
        self, model: str, admin: Admin, probes: Mapping[str, Probe], say: Callable[[str], None]
    ) -> None:
        self.samples: list[Sample] = []
        self.homes: set[str] = set()
        self._model, self._admin, self._probes, self._say = model, admin, probes, say
        self._primed: set[str] = set()

    async def arm(self, arm: Arm) -> None:
        """Set the state and ask; a state that cannot be set is a failure of each of the arm's requests."""
        if arm.start is Start.ORIGIN and arm.region in self.homes:
            return
        probe = self._probes[arm.region]
        try:
            await self._prepare(arm, probe)
        except NotSetError as error:
            self.samples += [failed(arm.region, arm.start, f"state not set: {error}")] * arm.num_requests
            return
        for _ in range(arm.num_requests):
            self._take(await probe.ask(arm.start))

    async def _prepare(self, arm: Arm, probe: Probe) -> None:
        if arm.start is Start.WARM and arm.region not in self._primed:
            await probe.ask(arm.start)  # not counted: it only makes the region warm
        self._primed.add(arm.region)
        await self._admin.prepare(arm.region, self._model, arm.start)

    def _take(self, sample: Sample) -> None:
        self.samples.append(sample)
        if sample.wanted is Start.ORIGIN and sample.found not in {None, Start.ORIGIN}:
            self.homes.add(sample.region)
        figure = f"{sample.ttft_ms:.0f} ms" if sample.ttft_ms is not None else f"failed: {sample.failure}"
        self._say(f"{len(self.samples):4d}  {sample.region} {sample.start.value}: {figure}")


async def run_report(target: ReportTarget, on_progress: Callable[[str], None] = lambda _: None) -> Report:
    """Measure. Requests that fail are counted in the report.

    Raises:
        StatusError: the platform's status cannot be read, so nothing was measured.
        OSError: the authority's file cannot be read.
    """
    tls = await asyncio.to_thread(client_context, target.ca)
    began_s, made_at = time.perf_counter(), datetime.now(UTC)
    async with AsyncExitStack() as stack:
        admin = Admin(target.admin_url, tls, target.admin_key)
        stack.push_async_callback(admin.close)
        status = await admin.status()
        question = Question(target.model, _kind(status, target), target.prompt, target.max_tokens)
        probes = {
            region: await stack.enter_async_context(
                Probe(region, target.pins[region], tls, target.api_key, question)
            )
            for region in target.regions
        }
        run = _Run(target.model, admin, probes, on_progress)
        for arm in arms(target.regions, target.num_cold, target.num_warm, target.seed):
            await run.arm(arm)
        status = await admin.status()
    took_s = round(time.perf_counter() - began_s, 3)
    settings = _settings(target, question, status, made_at, took_s, run.homes)
    tiers = {region: _tiers(status, region, target.model) for region in target.regions}
    return document(settings, tiers, run.samples)


def _settings(
    target: ReportTarget,
    question: Question,
    status: Mapping[str, Any],
    made_at: datetime,
    took_s: float,
    homes: set[str],
) -> Settings:
    return Settings(
        model=target.model,
        kind=question.kind,
        regions=target.regions,
        num_cold=target.num_cold,
        num_warm=target.num_warm,
        seed=target.seed,
        prompt=target.prompt,
        max_tokens=target.max_tokens,
        made_at=made_at.isoformat(timespec="seconds"),
        took_s=took_s,
        machine=_machine(),
        simulated=_simulated(status),
        home_regions=tuple(sorted(homes)),
    )


def _kind(status: Mapping[str, Any], target: ReportTarget) -> Any:
    """The model's kind as the regions say it; a text generator if none says."""
    kinds = {model_row(status, region, target.model).get("kind") for region in target.regions}
    return next((kind for kind in PATHS if kind in kinds), "generate")


def _simulated(status: Mapping[str, Any]) -> tuple[str, ...]:
    wan = status.get("simulated_wan")
    return (f"WAN delay between edge and regions ({wan})",) if wan else ()


def _tiers(status: Mapping[str, Any], region: str, model: str) -> Tiers:
    """What the region measured of itself while the report ran."""
    body, row = region_body(status, region), model_row(status, region, model)
    rates = {source: body.get(name) for source, name in BANDWIDTHS.items()}
    known = {
        source: float(rate) for source, rate in rates.items() if isinstance(rate, int | float) and rate > 0
    }
    num_bytes, attach_s = row.get("bytes"), body.get("attach_s")
    return Tiers(
        bytes_per_s=known,
        weight_bytes=num_bytes if isinstance(num_bytes, int) else None,
        attach_s=float(attach_s) if isinstance(attach_s, int | float) else None,
    )


def _machine() -> dict[str, str | int]:
    """Where the client ran; on one machine with the platform unless the addresses say otherwise."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "num_cpus": os.cpu_count() or 0,
        "python": platform.python_version(),
    }
