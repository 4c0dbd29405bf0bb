"""What the step loop tells the node of each request, as messages of the link."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference.engine.attach.gates import Waits
    from inference.engine.choose.sample import Sampled
    from inference.engine.steps.events import Emitted, Ended, Failed
    from inference.engine.steps.scheduler import Scheduler
    from inference.link import Message


def token_message(event: Emitted, sampled: Sampled, waited_ms: float, *, was_guessed: bool) -> Message:
    """One token; with the first of an answer what it waited for."""
    message: Message = {"op": "tokens", "id": event.id, "tokens": [event.token], "logprobs": None}
    if was_guessed:
        message["guessed"] = True
    if sampled.logprob is not None:
        message["logprobs"] = [
            {"token": sampled.token, "logprob": sampled.logprob, "top": [list(t) for t in sampled.top]}
        ]
    if event.queue_ms is not None and event.prefill_ms is not None:
        message |= {"queue_ms": round(event.queue_ms, 3), "prefill_ms": round(event.prefill_ms, 3)}
        message["wait_ms"] = round(min(waited_ms, event.prefill_ms), 3)
        message["cached_tokens"] = event.num_cached
    return message


def failed_message(event: Failed) -> Message:
    """A request that ended by a fault, and when to try again."""
    message: Message = {"op": "failed", "id": event.id, "code": event.code, "message": event.message}
    if event.retry_after_s is not None:
        message["retry_after_s"] = round(event.retry_after_s, 3)
    return message


def done_message(event: Ended) -> Message:
    """A request that ended as it should, or was dropped."""
    return {
        "op": "done",
        "id": event.id,
        "reason": event.reason,
        "prompt_tokens": event.num_prompt,
        "completion_tokens": event.num_output,
        "cached_tokens": event.num_cached,
        "decode_ms": round(event.decode_ms, 3),
        "stop_id": event.stop_id,
    }


def stats_message(scheduler: Scheduler, gates: Waits | None) -> Message:
    """Who runs and waits, what steps take, and what was counted since the start."""
    pace, prefixes = scheduler.pace, scheduler.prefixes
    return {
        "op": "stats",
        "running": scheduler.num_running,
        "waiting": scheduler.num_waiting,
        "step_ms": _ms(pace.decode_s),
        "prefill_ms_per_token": _ms(pace.prefill_s_per_token),
        **(gates.figures() if gates else {}),
        "pages": prefixes.pages.num_pages,
        "pages_kept": prefixes.pages.num_kept,
        "prefix_queries": prefixes.num_asked,
        "prefix_hits": prefixes.num_found,
        "preemptions": scheduler.num_preempted,
        **scheduler.draft_figures(),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 4)
