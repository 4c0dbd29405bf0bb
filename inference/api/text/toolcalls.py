"""An answer's text taken apart as it comes: words, thoughts, and tool calls; no I/O.

The way it was cut into pieces never changes what comes out: what may yet become a marker is held back. A call's name
goes out as soon as it is known and its arguments as they are written; what only looks like a call is words after all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
BLANKS = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Markers:
    """How a model writes calls: between `opening` and `closing` ("": none), objects with `arguments` under that key.

    `bare`: an answer that begins with an object is a call even without `opening` (Llama 3).
    """

    name: str
    opening: str
    closing: str
    arguments: str = "arguments"
    is_list: bool = False
    bare: bool = False


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of call number `index`: `id` and `name` on its first piece only."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(slots=True)
class Parts:
    """What a piece of text gave."""

    words: str = ""
    thoughts: str = ""
    calls: tuple[CallPart, ...] = ()


class CallScanner:
    """One JSON object of a call, character by character.

    Written as name first, arguments second, its arguments come out as they are made; in any other order at its end.
    """

    __slots__ = ("_arguments", "_depth", "_escaped", "_head", "_in_string", "_is_named", "_raw", "is_done")

    def __init__(self, arguments: str) -> None:
        self._arguments = arguments
        self._head = re.compile(rf'\{{\s*"name"\s*:\s*"([A-Za-z0-9_.-]+)"\s*,\s*"{arguments}"\s*:\s*')
        self._depth, self._in_string, self._escaped = 0, False, False
        self._is_named = False
        self._raw = ""
        self.is_done = False

    def receive(self, character: str) -> tuple[str | None, str]:
        """Take one character: (the name, once, when it is known; the next of the arguments' text)."""
        depth, name = self._depth, None
        if not self._in_string and character == "{" and depth == 1 and not self._is_named:
            match = self._head.fullmatch(self._raw)
            self._is_named, name = match is not None, match[1] if match else None
        self._count(character)
        self._raw += character
        self.is_done = self._depth == 0
        if self._is_named:
            return name, character if max(depth, self._depth) > 1 else ""
        return self._whole() if self.is_done else (None, "")

    def given_up(self) -> str:
        """The object's text, if it has not turned out to be a call."""
        return "" if self._is_named else self._raw

    def _count(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped = character == "\\"
            self._in_string = character != '"'
        elif character == '"':
            self._in_string = True
        else:
            self._depth += (character in "{[") - (character in "}]")

    def _whole(self) -> tuple[str | None, str]:
        try:
            found = json.loads(self._raw)
        except (ValueError, RecursionError):
            return None, ""
        name, arguments = found.get("name"), found.get(self._arguments, {})
        if type(name) is not str or not name:
            return None, ""
        self._is_named = True
        return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


class AnswerReader:
    """One answer. `thinks`: the model marks its thoughts; `thinking`: the prompt has opened them already.

    `only_first`: marks count before the first word only.
    """

    def __init__(
        self,
        markers: Markers | None,
        make_id: Callable[[], str],
        *,
        thinks: bool = False,
        thinking: bool = False,
        only_first: bool = False,
    ) -> None:
        self._markers = markers
        self._only_first = only_first
        self._make_id = make_id
        self._thinks = thinks
        self._state: Callable[[Parts], bool] = self._in_thoughts if thinking else self._in_words
        self._held = ""
        self._trims = True
        self._is_first = True
        self._scanner: CallScanner | None = None
        self.num_calls = 0

    @property
    def is_thinking(self) -> bool:
        """Between the marks of thoughts."""
        return self._state == self._in_thoughts

    @property
    def has_whole_call(self) -> bool:
        """At least one call is written to its end."""
        return self.num_calls > 1 or (self.num_calls == 1 and self._scanner is None)

    def receive(self, text: str) -> Parts:
        """What `text` makes certain."""
        self._held += text
        parts = Parts()
        while self._state(parts):
            pass
        return parts

    def finish(self) -> Parts:
        """The answer ended: what was held is what it looks like."""
        rest, self._held = self._held, ""
        if self.is_thinking:
            return Parts(thoughts=rest)
        if self._scanner is not None:
            rest = self._scanner.given_up()
        return Parts(words=rest.strip(BLANKS) if self.num_calls else rest)

    def _in_words(self, parts: Parts) -> bool:
        """True when there is more to look at in another state."""
        if self._trims:
            self._held = self._held.lstrip(BLANKS)
        if self._trims and not self._held:
            return False
        if self._begins_bare():
            self._state = self._in_call
            return True
        self._trims = False
        if self._only_first and self._is_first:
            self._is_first = any(one.startswith(self._held[: len(one)]) for one in self._marks())
        at, mark = min(
            ((self._held.find(one), one) for one in self._marks() if one in self._held), default=(-1, "")
        )
        if at < 0:
            certain = len(self._held) - self._num_waiting()
            self._say(parts, certain)
            return False
        self._say(parts, at if mark == THINK_OPEN else len(self._held[:at].rstrip(BLANKS)))
        self._held = self._held.lstrip(BLANKS).removeprefix(mark)
        self._state = self._in_thoughts if mark == THINK_OPEN else self._in_call
        return True

    def _say(self, parts: Parts, certain: int) -> None:
        parts.words += self._held[:certain]
        self._is_first = self._is_first and not certain
        self._held = self._held[certain:]

    def _begins_bare(self) -> bool:
        bare = self._markers is not None and self._markers.bare
        return bare and self._trims and self._is_first and self._held.startswith("{")

    def _marks(self) -> Iterator[str]:
        if self._only_first and not self._is_first:
            return
        if self._thinks:
            yield THINK_OPEN
        if self._markers is not None and self._markers.opening:
            yield self._markers.opening

    def _num_waiting(self) -> int:
        """Characters at the end that may begin a mark; with calls, blanks too: before a call they are nothing."""
        most = max(map(len, self._marks()), default=1) - 1
        held = self._held
        lengths = range(min(most, len(held)), 0, -1)
        begun = next((n for n in lengths if any(mark.startswith(held[-n:]) for mark in self._marks())), 0)
        before = held[: len(held) - begun]
        return begun + (len(before) - len(before.rstrip(BLANKS)) if self._markers is not None else 0)

    def _in_thoughts(self, parts: Parts) -> bool:
        thoughts, mark, rest = self._held.partition(THINK_CLOSE)
        if mark:
            parts.thoughts += thoughts
            self._held, self._state, self._trims = rest, self._in_words, True
            return True
        lengths = range(min(len(THINK_CLOSE) - 1, len(thoughts)), 0, -1)
        waiting = next((n for n in lengths if THINK_CLOSE.startswith(thoughts[-n:])), 0)
        parts.thoughts += thoughts[: len(thoughts) - waiting]
        self._held = thoughts[len(thoughts) - waiting :]
        return False

    def _in_call(self, parts: Parts) -> bool:
        """Between the marks of calls: objects, and what may stand between them."""
        if self._markers is None:
            raise RuntimeError("a call without markers")
        if self._scanner is not None:
            return self._scan(parts, self._scanner)
        self._held = self._held.lstrip(BLANKS + ("[,;" if self._markers.is_list else ";"))
        if self._held.startswith("{"):
            self._scanner = CallScanner(self._markers.arguments)
            return True
        closing = self._markers.closing or ("]" if self._markers.is_list else "")
        if closing and self._held.startswith(closing):
            self._held, closing = self._held[len(closing) :], ""
        elif not self._held or (closing and closing.startswith(self._held)):
            return False
        self._state, self._trims = self._in_words, True
        return True

    def _scan(self, parts: Parts, scanner: CallScanner) -> bool:
        for used, character in enumerate(self._held, 1):
            name, arguments = scanner.receive(character)
            if name is not None:
                self.num_calls += 1
                parts.calls += (CallPart(self.num_calls - 1, arguments, self._make_id(), name),)
            elif arguments:
                parts.calls += (CallPart(self.num_calls - 1, arguments),)
            if scanner.is_done:
                parts.words += scanner.given_up()
                self._scanner, self._held = None, self._held[used:]
                return True
        self._held = ""
        return False
