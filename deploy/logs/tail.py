"""The last words of a process, for whoever must say that it failed."""

from pathlib import Path

from deploy.logs.line import Source, read


def log_tail(path: Path, num_lines: int = 8) -> str:
    """The last lines of a log, indented, for an error message."""
    if not path.exists():
        return "  (it wrote no log)"
    whose = Source("", "", "")
    lines = (read(raw, whose, 0.0).text for raw in path.read_text(errors="replace").splitlines()[-num_lines:])
    last = "\n".join(lines).splitlines()[-num_lines:]
    return "\n".join(f"  {line}" for line in last) or "  (it wrote no log)"
