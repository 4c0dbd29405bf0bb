"""What every further arm works with: the platform's operators' door, a way to ask each region, a seeded order."""

import random
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deploy.report.arms import Start
from deploy.report.probe import Admin, Probe, Question
from deploy.report.sample import Sample


@dataclass(frozen=True, slots=True)
class Bench:
    """One platform, ready to be asked. `pins` are the regions' own addresses; `home` is where buckets live.

    `simulated` names the platform's own simulated WAN, if it has one.
    """

    admin: Admin
    pins: Mapping[str, str]
    tls: ssl.SSLContext
    api_key: str
    question: Question
    rng: random.Random
    say: Callable[[str], None]
    home: str | None = None
    simulated: str | None = None

    def probe(
        self, region: str, via: tuple[str, int] | None = None, question: Question | None = None
    ) -> Probe:
        """A way to ask one region; `via` is an address that leads there, such as a relay's."""
        asked = question or self.question
        return Probe(region, self.pins[region], self.tls, self.api_key, asked, via)

    @property
    def far(self) -> str:
        """A region whose bytes had to travel once, if there is one besides home."""
        return next((region for region in self.pins if region != self.home), next(iter(self.pins)))


def said(sample: Sample) -> str:
    """One request in a line of progress."""
    return f"{sample.ttft_ms:.0f} ms" if sample.ttft_ms is not None else f"failed: {sample.failure}"


async def cold(bench: Bench, probe: Probe, model: str, start: Start = Start.REGION) -> Sample:
    """One request that finds `model` in a cold state. Raises: NotSetError."""
    await bench.admin.prepare(probe.region, model, start)
    return await probe.ask(start)
