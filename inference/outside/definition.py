"""An external engine as the operator defines it in `[engines.NAME]`: read and judged here, once. Pure.

Rule 1: a command is a list of words and never goes through a shell; a placeholder is replaced inside its word, so no
        value can become a second argument.
Rule 2: everything stands in the operator's own file. A model names an engine, and gives it nothing but its weights,
        its name and its context length.
Rule 3: the engine's environment is what is named here and nothing else of the node's.
"""

from __future__ import annotations

import difflib
import re
import signal
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from inference.outside.kinds import COMMAND, KINDS, ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OWN = "nearfield"
"""The name of our own engine: what a model gets that names none."""
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""As `engine` in a model.toml (weights_cache.model.revision)."""
PLACES = frozenset({"model_dir", "work_dir", "port", "host", "socket", "name", "max_len", "num_threads"})
_PLACE = re.compile(r"\{([a-z_]+)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PARAMETER = re.compile(r"[a-z_]{1,64}")
MAX_WORDS = 256
"""Of a command; the longest in anyone's documentation has about forty."""
MIB = 1 << 20


class DefinitionError(ValueError):
    """The operator's definition cannot be used; the message says which key, why, and what to write instead."""


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """`[engines.NAME]` as it is written; None is the default of its kind, and of every kind.

    `kind` is "vllm", "sglang", "llama.cpp" or "command" (any other OpenAI-compatible server); NAME itself where that is
    one of them. `command` replaces the kind's own, `args` are added to it; `prepare` runs before it and ends. Seconds:
    `start_deadline_s` from the first process to the first good answer of `health`, `answer_deadline_s` for a whole
    answer or the first byte of a stream, `stall_s` without a byte while requests run, `check_s` between two looks at
    `health`, `stop_s` from `stop_signal` to SIGKILL. `memory_bytes` is what it takes beside the weights.
    """

    kind: str | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    prepare: tuple[str, ...] | None = None
    environment: tuple[str, ...] | None = None
    variables: Mapping[str, str] | None = None
    model_name: str | None = None
    routes: tuple[str, ...] | None = None
    refuse: tuple[str, ...] | None = None
    extra: tuple[str, ...] | None = None
    health: str | None = None
    metrics: str | None = None
    warm: str | None = None
    stop_signal: str | None = None
    start_deadline_s: float | None = None
    answer_deadline_s: float | None = None
    stall_s: float | None = None
    check_s: float | None = None
    stop_s: float | None = None
    max_requests: int | None = None
    max_answer_bytes: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Definition:
    """One external engine, complete and checked; fields as `EngineEntry`."""

    name: str
    kind: str
    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    model_name: str = "{name}"
    routes: tuple[str, ...] = ROUTES
    refuse: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    health: str = "/health"
    metrics: str = "/metrics"
    warm: str = "/v1/completions"
    stop_signal: str = "SIGTERM"
    start_deadline_s: float = 600.0
    answer_deadline_s: float = 600.0
    stall_s: float = 120.0
    check_s: float = 5.0
    stop_s: float = 20.0
    max_requests: int = 64
    max_answer_bytes: int = 64 * MIB
    memory_bytes: int = 1024 * MIB

    @property
    def words(self) -> tuple[str, ...]:
        """The whole command, before its placeholders are filled in."""
        return (*self.command, *self.args)

    @property
    def listens_at_socket(self) -> bool:
        """Whether it is reached at a Unix socket, which no other user of the host can take, and not at a port."""
        return "socket" in _places(self.words)

    @property
    def signal_number(self) -> int:
        """The number of `stop_signal`."""
        return int(signal.Signals[self.stop_signal])


def defined(name: str, entry: EngineEntry) -> Definition:
    """The engine `name` with the defaults of its kind.

    Raises:
        DefinitionError: what is wrong with it, and what to write instead.
    """
    if not NAME.fullmatch(name) or name == OWN:
        raise DefinitionError(
            f"{name!r} is no name for an engine: letters, digits, '.', '_', '-', not {OWN!r}"
        )
    kind = entry.kind or (name if name in KINDS else COMMAND)
    if kind not in KINDS:
        raise DefinitionError(f"kind = {kind!r} is not one of {', '.join(KINDS)}.{_near(kind, KINDS)}")
    said = {part.name: getattr(entry, part.name) for part in fields(entry) if part.name != "kind"}
    given: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    if kind == COMMAND and not given.get("command"):
        raise DefinitionError(
            'it has no command. Write command = ["PROGRAM", ..., "{port}"], as a list of words'
        )
    made = Definition(**{"name": name, "kind": kind, **KINDS[kind], **given})
    for check in _CHECKS:
        check(made)
    return made


def filled(words: Iterable[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """The words with their placeholders replaced, each inside its own word."""
    return tuple(_PLACE.sub(lambda found: values.get(found[1], found[0]), word) for word in words)


def environment_of(made: Definition, node: Mapping[str, str], work_dir: str) -> dict[str, str]:
    """What the engine's environment is: a few that every program needs, those named, and those set."""
    named = {key: node[key] for key in ("PATH", "LANG", "LC_ALL", *made.environment) if key in node}
    return {"HOME": work_dir, "TMPDIR": work_dir, **named, **made.variables}


def _places(words: Iterable[str]) -> set[str]:
    return {name for word in words for name in _PLACE.findall(word)}


def _near(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _check_words(made: Definition) -> None:
    for key, words in (
        ("command", made.words),
        ("prepare", made.prepare),
        ("model_name", (made.model_name,)),
    ):
        if len(words) > MAX_WORDS or any("\0" in word for word in words):
            raise DefinitionError(f"{key} has over {MAX_WORDS} words, or a NUL in one")
        for place in sorted(_places(words) - PLACES):
            known = ", ".join(f"{{{each}}}" for each in sorted(PLACES))
            raise DefinitionError(
                f"{key} has an unknown placeholder {{{place}}}.{_near(place, PLACES)} Known: {known}"
            )


def _check_address(made: Definition) -> None:
    found = _places(made.words) & {"port", "socket"}
    if len(found) != 1:
        raise DefinitionError(
            "the command must say where to listen: {port} (with {host}) or {socket}, one of them"
        )
    if _places(made.prepare) & {"port", "socket", "host"}:
        raise DefinitionError(
            "prepare runs before the server and has no address: take {port}, {host}, {socket} out"
        )


def _check_environment(made: Definition) -> None:
    for key in (*made.environment, *made.variables):
        if not _VARIABLE.fullmatch(key):
            raise DefinitionError(f"{key!r} is no name of an environment variable")
    if any("\0" in value for value in made.variables.values()):
        raise DefinitionError("variables: a value holds a NUL")


def _check_paths(made: Definition) -> None:
    for route in (*made.routes, *((made.warm,) if made.warm else ())):
        if route not in ROUTES:
            raise DefinitionError(f"route {route!r} is not one of {', '.join(ROUTES)}.{_near(route, ROUTES)}")
    if not made.routes:
        raise DefinitionError("routes is empty: no request could ever be answered")
    for key, path in (("health", made.health), ("metrics", made.metrics)):
        if (path or key == "health") and not re.fullmatch(r"/[A-Za-z0-9/._?=&-]*", path):
            raise DefinitionError(f"{key} = {path!r} is not a path such as '/{key}'")
    for name in (*made.refuse, *made.extra):
        if not _PARAMETER.fullmatch(name) or name in {"model", "stream"}:
            raise DefinitionError(f"{name!r} is no request parameter that can be refused, or be an extra one")


def _check_numbers(made: Definition) -> None:
    if made.stop_signal not in {"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"}:
        raise DefinitionError(f"stop_signal = {made.stop_signal!r} is not SIGTERM, SIGINT, SIGQUIT or SIGHUP")
    for key in (
        "start_deadline_s",
        "answer_deadline_s",
        "stall_s",
        "check_s",
        "max_requests",
        "max_answer_bytes",
    ):
        if getattr(made, key) <= 0:
            raise DefinitionError(f"{key} must be more than 0")


_CHECKS = (_check_words, _check_address, _check_environment, _check_paths, _check_numbers)
