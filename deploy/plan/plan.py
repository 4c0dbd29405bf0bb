"""The plan of a push as one frozen value: what will move, where it fits, how long it takes, what it costs. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from deploy.models.push import PushPlan
from deploy.plan import forecast, predict, scores
from deploy.plan.memory import Device, Fit, Needs, fits
from deploy.prices.book import PriceBook, Prices

USUAL_RTT_MS = 100.0
"""Between two regions of which no edge has heard."""


@dataclass(frozen=True, slots=True)
class Costs:
    """An hour with one worker up, an hour without, and what is paid once. None: the price file has no such device."""

    currency: str
    running_hour: float | None
    idle_hour: float
    once: float


@dataclass(frozen=True, slots=True)
class RegionPlan:
    """One region. `held_bytes`: what its store has already, None where that cannot be seen from here.

    `cold_s`: a first request's wait by where the bytes are then. `live_s`: from the end of the upload, and most
    likely between `low_s` and `high_s`; of it `start_s` is bytes and start, the rest as past pushes took it. Of
    `copy_bytes`, `far_bytes` come from the home region. `eta_error`: how far off this region's estimates of starts have
    been; `past`: how far off plans of pushes from here have been.
    """

    region: str
    held_bytes: int | None
    copy_bytes: int
    far_bytes: int
    fits: tuple[Fit, ...]
    cold_s: Mapping[str, float]
    start_s: float
    live_s: float
    low_s: float
    high_s: float
    is_measured: bool
    eta_error: float
    past: scores.Score | None
    costs: Costs | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will happen. `upload_s` is None until a push from here was measured."""

    push: PushPlan
    needs: Needs
    upload_s: float | None
    idle_timeout_s: float
    regions: tuple[RegionPlan, ...]

    @property
    def fits_somewhere(self) -> bool:
        """Whether a device of any region may hold the weights at all; unknown devices may."""
        judged = [fit for region in self.regions for fit in region.fits]
        return not judged or any(fit.device.budget_bytes >= self.needs.weight_bytes for fit in judged)

    def as_value(self) -> dict[str, Any]:
        """For programs: schema `push`."""
        return {
            "model": self.push.model,
            "files": [_file(self.push, path) for path in self.push.files],
            "left_out": [{"path": path, "reason": why} for path, why in self.push.left_out.items()],
            "bytes": self.push.num_bytes,
            "upload_bytes": self.push.upload_bytes,
            "upload_s": self.upload_s,
            "weight_bytes": self.needs.weight_bytes,
            "kv_bytes_per_token": self.needs.kv_bytes_per_token,
            "idle_timeout_s": self.idle_timeout_s,
            "regions": [asdict(region) for region in self.regions],
        }


def _file(push: PushPlan, path: str) -> dict[str, Any]:
    return {"path": path, "bytes": push.files[path], "is_unchanged": path not in push.to_send}


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beside the folder: the regions' rows, their stores, devices, prices and the past."""

    bodies: Mapping[str, Mapping[str, Any] | None]
    home: str
    held_bytes: Mapping[str, int | None]
    devices: Sequence[Device] = ()
    prices: PriceBook | None = None
    past: tuple[scores.Prediction, ...] = ()
    idle_timeout_s: float = 300.0
    rtts_ms: Mapping[str, float | None] = field(default_factory=dict)

    def home_rtt_s(self, region: str) -> float:
        """From a region to the home region, at most: by way of the edge, which measures both."""
        if region == self.home:
            return 0.0
        ways = (self.rtts_ms.get(region), self.rtts_ms.get(self.home))
        return sum(USUAL_RTT_MS / 2 if way is None else way for way in ways) / 1e3


def make(push: PushPlan, needs: Needs, regions: Iterable[str], known: Known) -> Plan:
    """The plan for these regions."""
    rate = scores.upload_bytes_per_s(known.past)
    return Plan(
        push,
        needs,
        push.upload_bytes / rate if rate else None,
        known.idle_timeout_s if push.spec.idle_timeout_s is None else push.spec.idle_timeout_s,
        tuple(_region(push, needs, region, known) for region in regions),
    )


def _region(push: PushPlan, needs: Needs, region: str, known: Known) -> RegionPlan:
    seen = predict.measured(known.bodies.get(region))
    held_bytes = known.held_bytes.get(region)
    lacks = push.num_bytes - (held_bytes or 0)
    far_bytes = 0 if region == known.home else lacks
    start_s = predict.brought_s(far_bytes, needs.weight_bytes, seen)
    past = scores.score(known.past, region)
    mine = forecast.alike(known.past, region, push.upload_bytes)
    first = forecast.usual(start_s, known.home_rtt_s(region), push.upload_bytes)
    span = forecast.learned(start_s, mine) if mine else first
    here = fits(needs, (each for each in known.devices if each.region == region))
    return RegionPlan(
        region=region,
        held_bytes=held_bytes,
        copy_bytes=lacks,
        far_bytes=far_bytes,
        fits=here,
        cold_s=predict.cold_s(needs.weight_bytes, seen),
        start_s=start_s,
        live_s=span.middle_s,
        low_s=span.low_s,
        high_s=span.high_s,
        is_measured=seen.is_complete and bool(region == known.home or seen.origin_bytes_per_s),
        eta_error=seen.eta_error,
        past=past,
        costs=_costs(push, here, far_bytes, known.prices.of(region)) if known.prices else None,
    )


def _costs(push: PushPlan, here: Sequence[Fit], far_bytes: int, prices: Prices) -> Costs:
    """The cheapest device that holds it: one worker is what a region starts with."""
    hours = [prices.hour_of(fit.device.device) for fit in here if fit.fits]
    priced = [hour for hour in hours if hour is not None]
    kept = prices.stored_hour(push.num_bytes)
    running = min(priced) + kept if priced else None
    return Costs(prices.currency, running, kept, prices.moved(far_bytes))
