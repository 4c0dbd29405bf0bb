"""A model's own `model.toml`, read strictly: wishes within bounds, and never a command, a path or a device.

What a push may say ends here (the house plan, 4b.8): an engine is only *named*; what the name means is the
operator's, in the host's own `nearfield.toml`.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from weights_cache.model.revision import RevisionError, Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SPEC_BYTES = 64 << 10  # a dozen keys; the rest can only be comments
MOST_REPLICAS = 1  # of a model in a region

OWN_ENGINE = "nearfield"
"""The engine of a model that names none."""
KEYS = tuple(part.name for part in fields(Spec))


class SpecError(ValueError):
    """`model.toml` is refused; the message says why, `next_step` what to write instead."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


def read_spec(data: bytes, all_regions: Sequence[str], engines: Sequence[str] | None = None) -> Spec:
    """The wishes in the bytes of `model.toml`.

    Args:
        data: the file; at most MAX_SPEC_BYTES.
        all_regions: the names that `regions` may choose from.
        engines: the external engines that the operator defined; None: not known here, and not checked.

    Raises SpecError.
    """
    values = _table(data)
    for key in values:
        _check_key(key, values[key])
    spec = _spec(values)
    if spec.regions is not None:
        check_regions(spec.regions, all_regions, "model.toml")
    if engines is not None:
        _check_engine(spec.engine, engines)
    _check_replicas(spec)
    _check_hours(spec)
    if spec.residency == ():
        raise SpecError("model.toml: residency names no place", "leave it out, or name regions or areas")
    _check_promise(spec)
    return spec


def _table(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_SPEC_BYTES:
        raise SpecError(
            f"model.toml has {len(data):,} bytes, at most {MAX_SPEC_BYTES:,} are read", _allowed()
        )
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # an integer of too many digits is a plain ValueError
        raise SpecError(f"model.toml is not TOML: {error}", "correct it and push again") from error


def _check_key(key: str, value: object) -> None:
    if key in {"engine", "engines"} and isinstance(value, (dict, list)):
        raise SpecError(
            "model.toml defines an engine; a pushed model may only name one",
            'write engine = "NAME"; the operator defines [engines.NAME] in the host\'s nearfield.toml',
        )
    if key not in KEYS:
        close = get_close_matches(key, KEYS, 1)
        raise SpecError(
            f"model.toml has an unknown key {key[:80]!r}",
            f"did you mean {close[0]!r}?" if close else _allowed(),
        )


def _spec(values: dict[str, Any]) -> Spec:
    """TOML has no null: a key left out means the platform's default."""
    try:
        return Spec.from_value(Spec().as_value() | values)
    except RevisionError as error:
        raise SpecError(
            f"model.toml: {error}".replace("spec.", ""), "correct the value and push again"
        ) from error


def check_regions(regions: Sequence[str], all_regions: Sequence[str], who: str) -> None:
    """That `who` names at least one region, and only regions that exist. Raises SpecError."""
    if not regions:
        raise SpecError(f"{who} names no region", "leave `regions` out to serve everywhere, or name one")
    for name in regions:
        if name not in all_regions:
            close = get_close_matches(name, all_regions, 1)
            known = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(all_regions)}"
            raise SpecError(f"{who} names an unknown region {name[:63]!r}", known)


def _check_engine(name: str | None, engines: Sequence[str]) -> None:
    if name is None or name in {OWN_ENGINE, *engines}:
        return
    close = get_close_matches(name, (OWN_ENGINE, *engines), 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise SpecError(
        f"model.toml names an unknown engine {name!r}; there are: {', '.join((OWN_ENGINE, *engines))}",
        f"{hint}the operator defines it as [engines.{name}] in nearfield.toml; without `engine` the model gets ours",
    )


def _check_replicas(spec: Spec) -> None:
    """A region has one replica of a model, or none: what asks for more is not to be taken as if it came."""
    for name, value in (("min_replicas", spec.min_replicas), ("max_replicas", spec.max_replicas)):
        if value is not None and value > MOST_REPLICAS:
            raise SpecError(
                f"model.toml wants {name} = {value}; a region has one replica of a model at most",
                f"write {name} = {MOST_REPLICAS}, or name more regions",
            )


def _check_hours(spec: Spec) -> None:
    for text in spec.prewarm or ():
        first, last = text.rpartition(" ")[2].split("-")
        if first == last:
            raise SpecError(
                f"model.toml: prewarm {text!r} has no hours",
                'write prewarm = ["mon-fri 08:00-18:00"] (UTC); for a replica at all times set min_replicas = 1',
            )


def _check_promise(spec: Spec) -> None:
    if spec.deterministic and spec.engine not in {None, OWN_ENGINE}:
        raise SpecError(
            f"model.toml asks for deterministic answers of the engine {spec.engine!r}, which cannot promise them",
            "leave `engine` out, or `deterministic`",
        )
    if spec.quantize and spec.engine not in {None, OWN_ENGINE}:
        raise SpecError(
            f"model.toml asks the engine {spec.engine!r} for {spec.quantize}, which only our own makes",
            "leave `engine` out, or `quantize`",
        )
    if spec.num_speculative_tokens is not None and spec.engine not in {None, OWN_ENGINE}:
        raise SpecError(
            f"model.toml says num_speculative_tokens, which the engine {spec.engine!r} is not told",
            "leave it out, and set it in that engine's own command",
        )


def _allowed() -> str:
    return f"the keys are: {', '.join(KEYS)}"
