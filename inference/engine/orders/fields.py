"""The fields of one message of the link, each checked as it is taken. Plain Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from inference.engine.orders.asked import OrderRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.engine.orders.asked import Bounds

MAX_ID_CHARS = 256
"""Request ids are made by the edge (36 characters) and given a suffix by the node."""
MAX_BIASED_TOKENS = 1024
"""OpenAI allows 300 entries; each costs one scattered add a step."""
MAX_PENALTY = 100.0
MAX_SEED_BITS = 64


class Fields:
    """One message's fields, each taken once; whatever is left at the end is unknown."""

    __slots__ = ("_rest", "id")

    def __init__(self, message: Mapping[str, object]) -> None:
        self._rest = dict(message)
        self._rest.pop("op", None)
        order_id = self._rest.pop("id", None)
        if not isinstance(order_id, str) or not 0 < len(order_id) <= MAX_ID_CHARS:
            raise OrderRefused("", "bad_request", f"id must be a string of 1 to {MAX_ID_CHARS} characters")
        self.id = order_id

    def refuse(self, message: str, code: str = "bad_request") -> NoReturn:
        """End with a refusal of this order. Raises OrderRefused."""
        raise OrderRefused(self.id, code, message)

    def take(self, name: str) -> object:
        """The field as it came; None if it is not there."""
        return self._rest.pop(name, None)

    def absent(self, name: str) -> bool:
        """Whether it is not there, or null; then it is taken."""
        return self._rest.get(name) is None and (self._rest.pop(name, None) is None)

    def end(self) -> None:
        """Nothing may be left. Raises OrderRefused."""
        if self._rest:
            self.refuse(f"unknown fields: {', '.join(sorted(self._rest)[:5])}")

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A finite number in [low, high]. Raises OrderRefused."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.refuse(f"{name} must be a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number in [low, high]. Raises OrderRefused."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(f"{name} must be a whole number from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        """True or false. Raises OrderRefused."""
        value = self.take(name)
        if not isinstance(value, bool | None):
            self.refuse(f"{name} must be true or false")
        return value is True

    def text(self, name: str, most_chars: int) -> str:
        """A bounded text, "" if it is not there. Raises OrderRefused."""
        value = self.take(name)
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > most_chars:
            self.refuse(f"{name} must be a string of at most {most_chars} characters")
        return value

    def optional_text(self, name: str, most_chars: int) -> str | None:
        """A bounded text, None if it is not there. Raises OrderRefused."""
        value = self.take(name)
        if value is not None and (not isinstance(value, str) or len(value) > most_chars):
            self.refuse(f"{name} must be a text of at most {most_chars} characters")
        return value

    def seed(self) -> int | None:
        """A whole number of 64 bits, or None. Raises OrderRefused."""
        value = self.take("seed")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value.bit_length() > MAX_SEED_BITS:
            self.refuse(f"seed must be a whole number of {MAX_SEED_BITS} bits")
        return value

    def tokens(self, name: str, bounds: Bounds) -> tuple[int, ...]:
        """At least one token id. Raises OrderRefused."""
        return self.row(self.take(name), name, bounds)

    def row(self, value: object, name: str, bounds: Bounds) -> tuple[int, ...]:
        """The same of a value that lies deeper; `name` says where. Raises OrderRefused."""
        if not isinstance(value, list) or not value:
            self.refuse(f"{name} must be a list of at least one token id")
        return tuple(self._id(token, name, bounds) for token in value)

    def ids(self, name: str, bounds: Bounds, most: int) -> tuple[int, ...]:
        """Any number of token ids up to `most`. Raises OrderRefused."""
        value = self.take(name)
        if value is None or value == []:
            return ()
        row = self.row(value, name, bounds)
        if len(row) > most:
            self.refuse(f"{name} holds at most {most} token ids")
        return row

    def bias(self, bounds: Bounds) -> tuple[tuple[int, float], ...]:
        """`logit_bias`: what is added to which token. Raises OrderRefused."""
        value = self.take("logit_bias")
        if value is None:
            return ()
        if not isinstance(value, dict) or len(value) > MAX_BIASED_TOKENS:
            self.refuse(f"logit_bias must be an object of at most {MAX_BIASED_TOKENS} tokens")
        return tuple(self._biased(token, bias, bounds) for token, bias in value.items())

    def _biased(self, token: str, bias: object, bounds: Bounds) -> tuple[int, float]:
        fits = token.isascii() and token.isdigit() and len(token) < MAX_ID_CHARS
        number = self._id(int(token) if fits else -1, "logit_bias", bounds)
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not abs(bias) <= MAX_PENALTY:
            self.refuse(
                f"logit_bias of token {token} must be a number from {-MAX_PENALTY:g} to {MAX_PENALTY:g}"
            )
        return number, float(bias)

    def _id(self, token: object, name: str, bounds: Bounds) -> int:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < bounds.vocab_size:
            raise OrderRefused(
                self.id,
                "bad_request",
                f"{name} holds {token!r:.40}, not a token id below {bounds.vocab_size}",
            )
        return token
