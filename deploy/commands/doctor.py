"""`nearfield doctor`: the findings as a table, each with its fix, or as JSON."""

from dataclasses import asdict
from pathlib import Path

from deploy.terminal import show
from deploy.terminal.exits import Exit
from deploy.terminal.looking import looking


def run(state: Path, *, as_json: bool) -> Exit:
    """Look everything over; NOT_READY if one finding is not well."""
    with looking("what it needs to look with") as told:
        from deploy.doctor.examine import examine  # noqa: PLC0415 - the stores' SDK: seconds on a busy machine

        findings = examine(state, told.turn_to)
    if as_json:
        show.emit_json([asdict(each) for each in findings])
    else:
        rows = [("✓" if f.well else "✗", f.name, f.seen, "" if f.well else f.fix) for f in findings]
        show.console().print(show.table(("", "what", "seen", "what to do"), rows, num_heads=2))
    return Exit.OK if all(f.well for f in findings) else Exit.NOT_READY
