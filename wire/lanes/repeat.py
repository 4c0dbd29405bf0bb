"""The head of a stream's answer that came before, but for its request's id: it is known by its bytes, and so is ours.

The answers on one lane begin alike; whole ones, whose values differ, are known by their shape (`shape.py`). What a
head that repeats comes to was worked out when it came first: that it is usual (`usual.py`), and what is said in its
place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wire.dialect import THEIR_REQUEST_ID

if TYPE_CHECKING:
    from wire.lanes.shape import Grounds, Shape

_VALUE: Final = THEIR_REQUEST_ID.encode() + b": %b\r\n"  # the end of a line, whoever's name it has

NUM_SHAPES: Final = (
    4  # of answers that come in turns, from several regions say: to learn one takes five strict looks
)


class Repeat:
    """One head, and the head that was said for it, each cut where the id of its request stands.

    `grounds` is all else that our head was made of: where it differs, so would the head.

    Attributes:
        shapes: of whole answers, at most `NUM_SHAPES`, the newest first.
    """

    __slots__ = ("_came", "_grounds", "_said", "is_kept", "shapes")

    def __init__(self) -> None:
        self.shapes: tuple[Shape, ...] = ()
        self._came: list[bytes] = []
        self._said: list[bytes] = []
        self._grounds: Grounds | None = None
        self.is_kept = False  # where none of a lane's answers streams, none is asked for

    def learn(self, shape: Shape) -> None:
        """In the place of the one that was learnt first, if there are so many."""
        self.shapes = (shape, *self.shapes[: NUM_SHAPES - 1])

    def keep(self, came: bytes, said: bytes, number: bytes, grounds: Grounds) -> None:
        """`said` was made for the head `came`. An id that is also a part of something else is not looked for."""
        if all(head.count(number) == head.count(_VALUE % number) for head in (came, said)):
            self._came, self._said, self._grounds = came.split(number), said.split(number), grounds
            self.is_kept = True

    def of(self, data: bytes, number: bytes, grounds: Grounds) -> tuple[bytes, int] | None:
        """If `data` begins with the same head for the request `number`: ours, and where its body begins."""
        if grounds != self._grounds:
            return None
        came = number.join(self._came)
        return (number.join(self._said), len(came)) if data.startswith(came) else None
