"""How-tos as programs: every command of one is run, or its page says in a comment why it is not.

`<!-- not run: REASON -->` stands before a block, ``<!-- not run `COMMAND`: REASON -->`` anywhere for a command in a
sentence. One in a sentence needs no comment if a block that is run has the same command with at least its options.
"""

import itertools
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
REFUSED_BLOCK = re.compile(r"<!-- not run: (?P<why>[^`\s].{9,}) -->\s*\Z")
REFUSED_SPAN = re.compile(r"<!-- not run `(?P<command>[^`]+)`: (?P<why>\S.{9,}) -->")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
INDENTED = re.compile(r"^ {4,}(\S.*)$", re.MULTILINE)
INSIDE = re.compile(r"\$\(([^()]+)\)")
PROGRAM = re.compile(
    r"(?:nearfield|aws|make|touch|eval|curl|nvidia-smi|rclone|systemctl|docker|helm|kubectl|pip)\s+\S"
)


@dataclass(frozen=True, slots=True)
class Block:
    """Commands of a page; `why_not` if they are not run. `prints`: what the page says that they print."""

    line: int
    commands: str
    prints: str | None
    why_not: str | None


def blocks(page: Path) -> list[Block]:
    """The `sh` blocks of a page, those inside lists too."""
    text = page.read_text()
    found = list(FENCE.finditer(text))
    return [
        Block(
            text.count("\n", 0, each.start()) + 2,
            textwrap.dedent(each["body"]),
            textwrap.dedent(after["body"]) if after is not None and after["kind"] == "text" else None,
            why["why"] if (why := REFUSED_BLOCK.search(text[: each.start()])) else None,
        )
        for each, after in itertools.zip_longest(found, found[1:])
        if each["kind"] == "sh"
    ]


def said(page: Path) -> list[str]:
    """Commands in a page's sentences and tables, and in indented blocks, which nothing runs."""
    text = COMMENT.sub("", FENCE.sub("", page.read_text()))
    spans = [*SPAN.findall(text), *INDENTED.findall(text)]
    return [span for span in spans if PROGRAM.match(span)]


def refused(page: Path) -> dict[str, str]:
    """Commands in sentences that a page says are not run, with the reason."""
    return {each["command"]: each["why"] for each in REFUSED_SPAN.finditer(page.read_text())}


def commands(script: str) -> Iterator[tuple[tuple[str, ...], frozenset[str]]]:
    """Each line of a script, and what it takes the output of, as (program and its command, the options)."""
    for line in script.replace("\\\n", " ").splitlines():
        yield key(line)
        yield from map(key, INSIDE.findall(line))


def key(command: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """What two spellings of one command have in common, whatever they are about."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        words = command.split()
    plain = [word for word in words if not word.startswith("-")]
    depth = 3 if plain[:2] in (["nearfield", "keys"], ["nearfield", "config"], ["aws", "s3"]) else 2
    return tuple(plain[:depth]), frozenset(word for word in words if word.startswith("-"))


def covered(command: str, scripts: list[str]) -> bool:
    """Whether one of the scripts has this command with at least its options."""
    name, options = key(command)
    return any(name == of and options <= more for script in scripts for of, more in commands(script))
