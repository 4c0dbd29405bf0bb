"""Runs the report: every region in every start state, one request at a time, and nothing left out."""

import asyncio
import os
import platform
import random
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.report.arms import Arm, Start, arms
from deploy.report.arrivals import arrivals, default_rate
from deploy.report.document import Report, Settings, Tiers, document
from deploy.report.more.bench import Bench
from deploy.report.more.found import middle_of
from deploy.report.more.run import Order, measure_more
from deploy.report.more.terms import Terms, load_terms
from deploy.report.more.wanted import Wanted
from deploy.report.probe import PATHS, Admin, NotSetError, Probe, Question, model_row, region_body
from deploy.report.sample import Sample, failed
from deploy.trust.credentials import Credentials
from wire.secured.tls import client_context

PROMPT = "What is Nearfield?"
PACE_MS = 1000.0  # between warm requests where even the first few failed: the rest fails as slowly
NUM_PACED = 5  # requests that set the pace: one lucky one would set it above what the region can do, and a queue grows
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
    for each region, ``rate`` of them a second (as many as one client makes if it is None); ``seed`` fixes their order.
    ``more`` are further arms; those that bring up platforms of their own or read stores need ``credentials``.
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
    rate: float | None = None
    more: Wanted = field(default_factory=Wanted)
    terms: Terms = field(default_factory=load_terms)
    credentials: Credentials | None = field(default=None, repr=False)


class _Run:
    """The state of one run: what was asked, which regions are warm, which cannot be at `origin`."""

    def __init__(
        self, target: ReportTarget, admin: Admin, probes: Mapping[str, Probe], say: Callable[[str], None]
    ) -> None:
        self.samples: list[Sample] = []
        self.homes: set[str] = set()
        self.rates: dict[str, float] = {}
        self._model, self._admin, self._probes, self.say = target.model, admin, probes, say
        self._rate = target.rate
        self._rng = random.Random(target.seed)  # noqa: S311 - arrival times, not secrets

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
        for sample in await self._asked(arm, probe):
            self._take(sample)

    async def _asked(self, arm: Arm, probe: Probe) -> list[Sample]:
        if arm.start is Start.WARM:
            return await self._at_their_times(arm, probe)
        return [await probe.ask(arm.start) for _ in range(arm.num_requests)]

    async def _at_their_times(self, arm: Arm, probe: Probe) -> list[Sample]:
        """The arm's requests by an open loop: each when it is due, whatever became of those before."""
        await probe.warm_up(arm.num_requests)
        begins_s = time.perf_counter()
        due = arrivals(arm.num_requests, self.rates[arm.region], self._rng)
        return list(await asyncio.gather(*(probe.ask_at(arm.start, begins_s + at_s) for at_s in due)))

    async def _prepare(self, arm: Arm, probe: Probe) -> None:
        if arm.start is Start.WARM and arm.region not in self.rates:
            self.rates[arm.region] = await self._paced(probe)
        await self._admin.prepare(arm.region, self._model, arm.start)

    async def _paced(self, probe: Probe) -> float:
        """Requests a second for a region: as asked, else what one client after another would make.

        None of its requests is counted: the first only makes the region warm, the middle of the others sets the pace.
        """
        await probe.ask(Start.WARM)
        paced = [await probe.ask(Start.WARM) for _ in range(NUM_PACED)]
        took_ms = middle_of([sample.e2e_ms for sample in paced if sample.e2e_ms is not None])
        return self._rate or default_rate(took_ms or PACE_MS)

    def _take(self, sample: Sample) -> None:
        self.samples.append(sample)
        if sample.wanted is Start.ORIGIN and sample.found not in {None, Start.ORIGIN}:
            self.homes.add(sample.region)
        figure = f"{sample.ttft_ms:.0f} ms" if sample.ttft_ms is not None else f"failed: {sample.failure}"
        self.say(f"{len(self.samples):4d}  {sample.region} {sample.start.value}: {figure}")


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
        run = _Run(target, admin, probes, on_progress)
        for arm in arms(target.regions, target.num_cold, target.num_warm, target.seed):
            await run.arm(arm)
        status = await admin.status()
        tiers = {region: _tiers(status, region, target.model) for region in target.regions}
        found = await measure_more(_bench(target, admin, tls, question, run, status), _order(target, tiers))
    took_s = round(time.perf_counter() - began_s, 3)
    settings = _settings(target, question, status, made_at, took_s, run)
    return document(settings, tiers, run.samples, found, target.terms)


def _bench(
    target: ReportTarget,
    admin: Admin,
    tls: ssl.SSLContext,
    question: Question,
    run: _Run,
    status: Mapping[str, Any],
) -> Bench:
    pins = {region: target.pins[region] for region in target.regions}
    home = next(iter(sorted(run.homes)), None)
    rng = random.Random(target.seed)  # noqa: S311 - an order, not a secret
    simulated = status.get("simulated_wan") or None
    return Bench(admin, pins, tls, target.api_key, question, rng, run.say, home, simulated)


def _order(target: ReportTarget, tiers: Mapping[str, Tiers]) -> Order:
    rates = {region: each.bytes_per_s.get("region") for region, each in tiers.items()}
    near = {region: rate for region, rate in rates.items() if rate}
    return Order(target.more, target.terms, target.credentials, target.seed, near)


def _settings(
    target: ReportTarget,
    question: Question,
    status: Mapping[str, Any],
    made_at: datetime,
    took_s: float,
    run: _Run,
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
        home_regions=tuple(sorted(run.homes)),
        warm_per_s={region: round(rate, 3) for region, rate in run.rates.items()},
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
