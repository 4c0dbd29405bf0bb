"""An external engine's /metrics page, made part of the node's: labelled, grouped, bounded. Pure.

Rule: what a page says is passed on under its own names (vLLM's, SGLang's, llama.cpp's), with labels `engine` and
`served` in front, so two engines do not run together; names of ours are never taken from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PAGE_BYTES = 1 << 20
MAX_LINES = 20_000
OURS = "nearfield_"
_NAME = r"[A-Za-z_:][A-Za-z0-9_:]{0,199}"
_LABELS = r"\{(?:[^\"{}\n]|\"(?:[^\"\\\n]|\\.)*\")*\}"
_SAMPLE = re.compile(rf"({_NAME})({_LABELS})?\s+([-+]?(?:[0-9.eE+-]+|Inf|NaN))(?:\s+-?[0-9]+)?")
_ABOUT = re.compile(rf"# (HELP|TYPE) ({_NAME}) ?(.*)")
_SUFFIXES = ("_bucket", "_sum", "_count", "_total", "_created")


@dataclass(slots=True)
class _Family:
    about: dict[str, str] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)


def merged(pages: Iterable[tuple[str, str, bytes]]) -> bytes:
    """The pages (engine, model, text) as one; what is no sample, and what would be one of ours, is left out."""
    families: dict[str, _Family] = {}
    for engine, model, page in pages:
        labels = f'engine="{_escaped(engine)}",served="{_escaped(model)}"'
        for line in page[:MAX_PAGE_BYTES].decode("utf-8", "replace").splitlines()[:MAX_LINES]:
            _take(families, line.strip(), labels)
    lines = [
        line for each in families.values() if each.samples for line in (*each.about.values(), *each.samples)
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _take(families: dict[str, _Family], line: str, labels: str) -> None:
    if (about := _ABOUT.fullmatch(line)) and not about[2].startswith(OURS):
        families.setdefault(about[2], _Family()).about.setdefault(about[1], line)
    elif (found := _SAMPLE.fullmatch(line)) and not found[1].startswith(OURS):
        own = (found[2] or "{}")[1:-1].strip(", ")
        all_labels = f"{labels},{own}" if own else labels
        families.setdefault(_family(found[1], families), _Family()).samples.append(
            f"{found[1]}{{{all_labels}}} {found[3]}"
        )


def _family(name: str, families: dict[str, _Family]) -> str:
    """Whose sample it is: of a histogram `x`, `x_bucket` and `x_sum` are."""
    if name in families:
        return name
    return next((name.removesuffix(end) for end in _SUFFIXES if name.removesuffix(end) in families), name)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
