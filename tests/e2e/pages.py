"""Pages as programs: the `sh` blocks of a page are run in one shell; a `text` block is what the one before it prints.

What differs from run to run is taken out of both sides first: numbers with their units, ids, which region answered, and
what is told only where something takes long: the progress of a wake, a store that is silent for seconds.
`…` in a page stands for anything.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK_S = 120
FEWER = "--cold 1 --warm 2 --regions iad"
"""Of a report: its lines are the same with fewer requests behind them."""
UNITS = r"(?:ms|s|B|kB|MB|GB|kB/s|MB/s|GB/s|k|M|%|\xd7|h|EUR|USD)"
MASKS = (
    (r"\x1b\[[0-9;]*m", ""),
    (r"(?m)^(?:waking: |nothing heard from ).*?$\n?", ""),
    (r"\S*/(?=(?:credentials\.toml|ca\.pem))", "/"),
    (r"\b[0-9a-f]{12,}\b", "#"),
    (rf"~?(?<!\w)\d[\d.,]*(?:e-?\d+)?(?:\u2013\d[\d.,]*)?(?:\s?{UNITS})?(?!\w)", "#"),
    (r"(?<=\s)[\u2014\xb7-](?=\s)", "#"),
    (r"\b(?:iad|fra|nrt) # (?:warm|resident|host|region|origin) start", "REGION # STATE start"),
    (r"first token #:.*?# from afar", "first token #: PHASES # from afar"),
    (r"(?:#\s*)+", "# "),
    (r"\s+", " "),
)


@dataclass(frozen=True, slots=True)
class Step:
    """Commands of a page, and what it says that they print, if it does. `line` is where they stand."""

    line: int
    commands: str
    prints: str | None


def steps(page: Path) -> list[Step]:
    """The page's `sh` blocks in order."""
    text = page.read_text()
    blocks = [(m.start(), m[1], m[2]) for m in BLOCK.finditer(text)]
    following = [*blocks[1:], (0, "", "")]
    return [
        Step(text.count("\n", 0, at) + 2, body, after[2] if after[1] == "text" else None)
        for (at, kind, body), after in zip(blocks, following, strict=True)
        if kind == "sh"
    ]


def masked(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, instead in MASKS:
        text = re.sub(pattern, instead, text, flags=re.DOTALL)
    return text.strip()


def is_as_said(printed: str, said: str) -> bool:
    """Whether what was printed is what the page says."""
    parts = [re.escape(masked(part)) for part in said.split("…")]
    return re.fullmatch(".*?".join(parts), masked(printed), re.DOTALL) is not None


class Shell:
    """A bash that a reader of the page would have: in `folder`, with the platform's state, `nearfield` and a venv."""

    def __init__(self, folder: Path, state: Path, up_log: Path) -> None:
        self._folder, self._up_log = folder, up_log
        bin_folder = folder / ".venv" / "bin"
        bin_folder.mkdir(parents=True)
        _program(bin_folder / "python", f'exec {sys.executable} "$@"')
        report = f'[ "$1" = report ] && set -- "$@" {FEWER}\n'
        _program(bin_folder / "nearfield", f'{report}exec {sys.executable} -m deploy "$@"')
        (bin_folder / "activate").write_text(f'export PATH="{bin_folder}:$PATH"\n')
        for name in ("examples", "deploy"):
            (folder / name).symlink_to(ROOT / name)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "OPENAI_"))}
        self._process = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=environment | {"NEARFIELD_STATE": str(state), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        )

    def run(self, commands: str) -> tuple[str, int]:
        """What they print on both outputs, and the exit status of the last."""
        script, end = self._folder / "block.sh", f"end-of-{os.urandom(8).hex()}"
        script.write_text("\n".join(self._here(line) for line in commands.splitlines()))
        self._process.stdin.write(f'. ./block.sh </dev/null; printf "\\n%s %s\\n" {end} $?\n')
        self._process.stdin.flush()
        printed = []
        for line in self._process.stdout:
            if line.startswith(end):
                return "".join(printed), int(line.split()[1])
            printed.append(line)
        raise AssertionError(f"the shell ended:\n{''.join(printed)}")

    def close(self) -> None:
        """End the shell."""
        self._process.stdin.close()
        self._process.wait(BLOCK_S)
        self._process.stdout.close()

    def _here(self, line: str) -> str:
        """What stands for a command that has been run already: `nearfield up` is up, and what `make` makes is made."""
        if line.startswith("nearfield up"):
            return f"grep -v 'is taken: using' {shlex.quote(str(self._up_log))}"
        if line.startswith("make "):
            return f"make --dry-run -C {ROOT} {line.removeprefix('make ')} >/dev/null"
        return line


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
