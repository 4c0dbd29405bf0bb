"""A stream that goes on in another region when its own dies: which tokens the client has, and how to ask for the rest.

Only for clients that ask (`x-nearfield-resume: true`) and answers that every region makes alike (greedy, or
deterministic with a seed). A node that can be taken over from says its tokens' ids in lines beside its events
(`inference/api/answer/resume.py`); they are taken out here. Events of one step belong together: the client gets all of
them or, until the last one is here, none. Pure.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from regions.map.headers import RESUME

if TYPE_CHECKING:
    from wire.http.http1 import Headers, RequestHead

PATHS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
FIELD: Final = b"nearfield_resume"
_HEAD, _LINE = b": nf-head ", b": nf "
_FINISH: Final = re.compile(rb'"finish_reason": ?"')


class GroupLostError(Exception):
    """Events are missing, or their line means nothing: what follows cannot be passed on."""


class Resumption:
    """What one client has of its stream."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.revision: str | None = None
        self._head: dict[str, Any] | None = None
        self._group: list[bytes] = []
        self._ids: list[int] = []
        self._position = 0
        self._num_missing = 0
        self._is_finished = False

    @property
    def can_go_on(self) -> bool:
        """Whether another node could say what comes next."""
        return bool(self.tokens) and self._head is not None and self.revision is not None

    def begin(self, revision: str | None) -> None:
        """A region begins to answer, or to go on; half a group of the one before is forgotten."""
        self.revision = self.revision or revision
        self._group, self._num_missing = [], 0

    def take(self, block: bytes) -> bytes:
        """What of `block` (whole events) the client is to have now. Raises GroupLostError."""
        out: list[bytes] = []
        for event in block.split(b"\n\n")[:-1]:
            if self._num_missing and not event.startswith(b":"):
                self._add(event, out)
            elif event.startswith(_LINE):
                self._open(event, out)
            elif event.startswith(_HEAD):
                self._head = self._head or json.loads(event.removeprefix(_HEAD))
            else:
                out.append(event)
        return b"".join([event + b"\n\n" for event in out])

    def headers(self) -> Headers:
        """What asks a region for the lines, or to go on."""
        if self.can_go_on and self.revision is not None:
            return ((RESUME, "go"), ("x-nearfield-revision", self.revision))
        return ((RESUME, "watch"),)

    def body(self, body: bytes) -> bytes:
        """The client's request, with what it has of the answer."""
        if not self.can_go_on:
            return body
        known = {"tokens": self.tokens, "finished": self._is_finished, **(self._head or {})}
        told = json.dumps(known).encode()
        return b'{"%b": %b, %b' % (FIELD, told, body.lstrip().removeprefix(b"{"))

    def _open(self, event: bytes, out: list[bytes]) -> None:
        line, _, first = event.partition(b"\n")
        try:
            self._position, self._num_missing, *self._ids = map(int, line.removeprefix(_LINE).split())
        except ValueError as error:
            raise GroupLostError("a line that means nothing") from error
        self._group = []
        if first:
            self._add(first, out)
        elif not self._num_missing:
            self._close(out)

    def _add(self, event: bytes, out: list[bytes]) -> None:
        self._group.append(event)
        self._num_missing -= 1
        if not self._num_missing:
            self._close(out)

    def _close(self, out: list[bytes]) -> None:
        """The group is whole. One that came before is dropped."""
        if self._position > len(self.tokens):
            raise GroupLostError(f"tokens {len(self.tokens)} to {self._position} are missing")
        if self._position == len(self.tokens):
            self.tokens += self._ids
            out += self._group
            self._is_finished = self._is_finished or any(map(_FINISH.search, self._group))
        self._group = []


def wanted(head: RequestHead, *, stream: bool) -> Resumption | None:
    """Whether the client asks for it, of a stream that has it."""
    asks = stream and head.path in PATHS and head.get(RESUME) == "true"
    return Resumption() if asks else None
