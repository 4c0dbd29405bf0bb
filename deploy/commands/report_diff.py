"""`nearfield report diff`: two measured documents side by side, and the gate on them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from deploy.commands.report import earlier, read_conditions
from deploy.report.gate.diff import FIGURES, Change, changes, keys
from deploy.report.gate.failures import Failures, failures
from deploy.report.gate.verdict import judge
from deploy.report.out.markdown import comparison, failed_words, said, verdict
from deploy.report.words import ONE_RUN
from deploy.terminal import show
from deploy.terminal.exits import Exit


def run(before: Path, after: Path, fail_if: Sequence[str], markdown: Path | None, *, as_json: bool) -> int:
    """Compare and judge; returns the exit status: 6 if a condition is so. Raises: BadParameter."""
    conditions = read_conditions(fail_if)
    base, document = earlier(before), earlier(after)
    found = changes(base, document)
    failed = failures(base, document, keys(base, document))
    verdicts = [each for condition in conditions for each in judge(condition, document, base)]
    if as_json:
        show.emit_json(
            {
                "changes": [_value(each) for each in found],
                "failures": [_value(each) for each in failed],
                "gate": [asdict(each) for each in verdicts],
            }
        )
    else:
        show.console().print(
            show.table(("region", "start", "figure", "before", "after", "change"), _rows(found, failed))
        )
        if any([*(each.is_clear for each in found), *(each.is_clear for each in failed)]):
            show.console().print(ONE_RUN)
    for each in verdicts:
        show.problems().print(f"{'failed' if each.failed else 'passed'}: {each.words}", markup=False)
    if markdown is not None:
        markdown.write_text(comparison(found, failed, verdicts), encoding="utf-8")
    return Exit.GATE_FAILED if any(each.failed for each in verdicts) else Exit.OK


def _value(change: Change | Failures) -> dict[str, object]:
    return {**asdict(change), "is_clear": change.is_clear, "is_worse": change.is_worse}


def _rows(found: Sequence[Change], failed: Sequence[Failures]) -> list[tuple[str, ...]]:
    names = dict(FIGURES)
    changed = [
        (
            each.region,
            each.start,
            names[each.figure],
            said(each, each.before),
            said(each, each.after),
            verdict(each),
        )
        for each in found
    ]
    return [*changed, *((each.region, each.start, *failed_words(each)) for each in failed)]
