"""A stream that can go on in another region: its tokens' ids beside its events, and an answer that begins behind them.

An edge asks with `x-nearfield-resume: watch`. Then what one step brings is a group: a line `: nf POSITION EVENTS ID...`
(an SSE comment: how many tokens came before, how many events follow and belong together, the tokens that made them).
The edge takes the lines out. If this node dies, it asks another with `x-nearfield-resume: go` and the ids it has passed
on, in the body's `nearfield_resume`; that node takes them as its own first tokens and says what comes after them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.api.fields import boolean, integer, string, token_ids
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference.api.answer.parts import Heading
    from inference.api.answer.sequences import Job

HEADER = "x-nearfield-resume"
FIELD = "nearfield_resume"
WATCH, GO = "watch", "go"
MAX_RESUMED = 131_072
"""Tokens; the body that brings them is bounded as any other."""
MAX_CREATED = 2**53


@dataclass(frozen=True, slots=True)
class Resume:
    """What an edge asks: `tokens` were passed on already, of an answer with this `id` (None: it begins here)."""

    tokens: tuple[int, ...] = ()
    id: str | None = None
    created: int = 0
    is_finished: bool = False
    """The client knows why the answer ended, and lacks what comes after that."""


def read_resume(asked: str | None, body: dict[str, Any]) -> Resume | None:
    """What the hop's header and the body say; the body is then as its client wrote it. Raises Refusal (400)."""
    if asked == WATCH:
        return Resume()
    if asked != GO:
        return None
    told = body.pop(FIELD, None)
    if not isinstance(told, dict) or set(told) != {"tokens", "id", "created", "finished"}:
        raise Refusal(400, "bad_request", f"A resumed answer needs {FIELD}.", param=FIELD)
    return Resume(
        token_ids(MAX_RESUMED)(told["tokens"], FIELD),
        string(64, 1)(told["id"], FIELD),
        integer(0, MAX_CREATED)(told["created"], FIELD),
        boolean(told["finished"], FIELD),
    )


def can_resume(job: Job, *, is_greedy: bool, is_deterministic: bool) -> bool:
    """Whether another node would go on alike: one answer, chosen by rule or by a seed that everybody draws alike."""
    delivery = job.delivery
    is_one = len(job.prompts) * delivery.num_choices == 1 and delivery.logprobs is None
    return is_one and (is_greedy or (is_deterministic and job.sampling.seed is not None))


class Numbering:
    """The lines of one answer."""

    def __init__(self, resume: Resume, heading: Heading) -> None:
        self._position = len(resume.tokens)
        self._head: Mapping[str, Any] | None = {"id": heading.id, "created": heading.created}

    def group(self, tokens: Sequence[int], events: bytes) -> bytes:
        """`events` (whole ones, or none) with the line that says which tokens they are of."""
        ids = "".join([f" {token}" for token in tokens])
        num_events = events.count(b"\n\n")
        line = f": nf {self._position} {num_events}{ids}\n"
        self._position += len(tokens)
        head, self._head = self._head, None
        said = "" if head is None else f": nf-head {json.dumps(head)}\n\n"
        return said.encode() + line.encode() + (events or b"\n")
