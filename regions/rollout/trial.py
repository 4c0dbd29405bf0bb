"""New rules are first the canary edges' alone; what those report puts them in force, or has them withdrawn. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from regions.map.policy import Rules, Trial
from regions.rows import canonical, rules_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.map.policy import PolicyRow
    from regions.rules import Ordered

SILENT_S: Final = (
    30.0  # an edge that has said nothing of a trial for so long beyond its time may have died of it
)
LOOK_S: Final = 0.5  # between two looks at what edges report
MARK_CHARS: Final = 12


@dataclass(frozen=True, slots=True)
class Report:
    """What one edge says of the trial `serial`: how long it has followed it, and what harm it sees; empty for none."""

    edge: str
    serial: int
    stood_s: float
    harm: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What a policy row says of rules."""

    rules: Rules
    trial: Trial | None
    withdrawn: str


def judged(last: PolicyRow, ordered: Ordered, reports: Mapping[str, Report], waited_s: float) -> Standing:
    """What the next policy row says.

    Args:
        last: the row in force.
        ordered: what the operator wants.
        reports: the last one of each edge.
        waited_s: since the trial in `last` began, as far as this process knows.
    """
    if ordered.rules == last.rules or not ordered.canary_edges:
        return Standing(ordered.rules, None, "")
    mark = mark_of(ordered.rules)
    if last.withdrawn.startswith(mark):
        return Standing(last.rules, None, last.withdrawn)
    trial = last.trial
    if trial is None or trial.rules != ordered.rules or trial.edges != ordered.canary_edges:
        trial = Trial(last.seq + 1, ordered.rules, ordered.canary_edges, ordered.trial_s)
        return Standing(last.rules, trial, "")
    harm = _harm(trial, reports, waited_s)
    if harm:
        return Standing(last.rules, None, f"{mark} {harm}"[:1000])
    if all(
        report is not None and report.stood_s >= trial.seconds for report in _said(trial, reports).values()
    ):
        return Standing(trial.rules, None, "")
    return Standing(last.rules, trial, "")


def mark_of(rules: Rules) -> str:
    """What tells these rules from others, so that what was withdrawn is not tried again until it is changed."""
    return hashlib.sha256(canonical(rules_body(rules))).hexdigest()[:MARK_CHARS]


def _said(trial: Trial, reports: Mapping[str, Report]) -> dict[str, Report | None]:
    found = {edge: reports.get(edge) for edge in trial.edges}
    return {edge: each if each and each.serial == trial.serial else None for edge, each in found.items()}


def _harm(trial: Trial, reports: Mapping[str, Report], waited_s: float) -> str:
    for edge, report in _said(trial, reports).items():
        if report is not None and report.harm:
            return f"edge {edge}: {report.harm}"
        if report is None and waited_s > trial.seconds + SILENT_S:
            return f"edge {edge} said nothing for {waited_s:.0f} s"
    return ""
