"""After a push is up: until each region serves it, and how good what the plan foretold was."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.client import Client
from deploy.models import pointing, watch
from deploy.models.standing import Standing
from deploy.plan import predict, scores
from deploy.plan.moving import Moving
from deploy.plan.plan import Plan, RegionPlan
from deploy.trust.credentials import Credentials
from regions.push.manifest import Manifest


class Landing:
    """Waits until the model is live, and scores what the plan foretold."""

    def __init__(self, plan: Plan, before: Mapping[str, Any], sent_bytes: int, upload_s: float) -> None:
        self._plan, self._before = plan, before
        self._sent_bytes, self._upload_s = sent_bytes, upload_s
        self._began = time.monotonic()
        self._took: dict[str, float] = {}

    def wait(
        self,
        credentials: Credentials,
        moving: Moving,
        pushed: Manifest,
        regions: tuple[str, ...] | None,
        limit_s: float,
        state: Path,
    ) -> dict[str, Any]:
        """Until every one of `regions` serves the revision, or all; the score goes to the folder `state`.

        Raises NotLive.
        """
        model, client = self._plan.push.model, Client(credentials, admin=True)
        move = asyncio.run(watch.committed(credentials, model, limit_s, pushed))
        revision = move.revision
        moving.committed(revision, is_shared=move.is_shared)

        def changed(now: Mapping[str, Standing]) -> None:
            moving.changed(now)
            for region, where in now.items():
                if where.live and where.revision == revision:
                    self._took.setdefault(region, time.monotonic() - self._began)

        def still_named() -> None:
            pointing.check_named(credentials, model, revision)

        live = watch.until_live(client, model, move, regions, changed, limit_s, still_named=still_named)
        scored = self._scored(revision, client.get("/nearfield/status").body["regions"])
        _keep(state, scored, moving)
        return {"revision": revision, "live": sorted(live), "scores": [_value(each) for each in scored]}

    def _scored(self, revision: str, now: Mapping[str, Any]) -> list[scores.Prediction]:
        """Where the revision was live before, nothing was foretold that could come true."""
        return [
            scores.Prediction(
                at=time.time(),
                model=self._plan.push.model,
                region=each.region,
                start_s=self._start_s(each, now),
                predicted_s=each.live_s,
                low_s=each.low_s,
                high_s=each.high_s,
                took_s=self._took[each.region],
                uploaded_bytes=self._sent_bytes,
                upload_s=self._upload_s,
            )
            for each in self._plan.regions
            if each.region in self._took and self._held_before(each.region) != revision
        ]

    def _start_s(self, region: RegionPlan, now: Mapping[str, Any]) -> float:
        """What bytes and start come to by what was measured meanwhile: usual figures leave a wrong rest to learn."""
        seen = predict.measured(now.get(region.region, {}).get("body"))
        if not seen.is_complete:
            return region.start_s
        return predict.brought_s(region.far_bytes, self._plan.needs.weight_bytes, seen)

    def _held_before(self, region: str) -> str | None:
        body = self._before["regions"].get(region, {}).get("body") or {}
        row = body.get("models", {}).get(self._plan.push.model) or {}
        found: str | None = row.get("revision")
        return found


def _value(each: scores.Prediction) -> dict[str, Any]:
    return {
        "region": each.region,
        "predicted_s": each.predicted_s,
        "took_s": each.took_s,
        "low_s": each.low_s,
        "high_s": each.high_s,
        "error": each.error,
    }


def _keep(state: Path, scored: Sequence[scores.Prediction], moving: Moving) -> None:
    """The model is live: that this cannot be written ends no push."""
    try:
        scores.keep(state, scored)
    except OSError as error:
        moving.remark(f"how the plan did is not kept for later plans: {error.strerror}: {state}")
