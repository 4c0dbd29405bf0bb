"""A worker as `/status` says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.workers.seams import LandingProgress
    from inference.workers.worker import Worker


def worker_value(worker: Worker) -> Mapping[str, Any]:
    """What it is, does and has, and how far its load is."""
    stats = worker.stats
    return {
        "model": worker.revision.model,
        "revision": worker.revision.id,
        "state": worker.state.value,
        "pid": worker.pid,
        "running": int(stats.get("running") or 0),
        "waiting": int(stats.get("waiting") or 0),
        "slots": int(worker.ready.get("slots") or 0),
        "idle_s": round(worker.idle_s, 3),
        "prefill_ms_per_token": stats.get("prefill_ms_per_token"),
        "step_ms": stats.get("step_ms"),
        "phases": {name: round(ms, 3) for name, ms in worker.report.phases.items()},
        "bytes": worker.room.num_bytes,
        "requests": worker.num_requests,
        "served": worker.num_served,
        "stalled_s": round(worker.stalled_s, 3),
        "progress": worker.board.line,
        "landing": None if worker.landing is None else _landing_value(worker.landing),
    }


def _landing_value(progress: LandingProgress) -> Mapping[str, Any]:
    eta_s = progress.eta_s
    percent = round(100 * progress.done_bytes / progress.total_bytes, 1)
    return {"percent": percent, "eta_s": None if eta_s is None else round(eta_s, 3)}
