"""From what TOML has to what an entry's field is: by the field's own type, with the key named in every error."""

import difflib
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from deploy.config.entries import PatienceTable
from deploy.faults import ConfigError

PHASES = ("connect_s", "first_byte_s", "between_s", "total_s")

T = TypeVar("T")


def entries(
    kind: type[T], tree: Mapping[str, Any], section: str, base: Path, above: str = ""
) -> Mapping[str, T]:
    """The tables of one section by their names; a section that is not there has none."""
    found = table(tree, section) if section in tree else {}
    return MappingProxyType(
        {name: entry(kind, found[name], f"{above}{section}.{name}", base) for name in found}
    )


def entry(kind: type[T], raw: object, where: str, base: Path) -> T:
    """One table as the dataclass `kind`: its fields are the keys that there are. Raises ConfigError."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} must be a table")
    specs = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    known(raw, tuple(specs), where)
    values: dict[str, Any] = {}
    for name, spec in specs.items():
        if name in raw:
            values[name] = convert(raw[name], str(spec.type), f"{where}.{name}", base)
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise ConfigError(f"{where} lacks `{name}`")
    return kind(**values)


def convert(value: object, annotation: str, where: str, base: Path) -> object:
    """What TOML has as what a field of this annotation is. Raises ConfigError."""
    as_field = _CONVERTERS[type_name(annotation)]
    try:
        return as_field(value, base)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} = {value!r}: {error}") from error


def type_name(annotation: str) -> str:
    """The bare name of a field's type: `tuple[str, ...] | None` is "tuple"."""
    name = annotation.removeprefix("<class '").removesuffix("'>").replace(" | None", "")
    return name.split("[", 1)[0].rsplit(".", 1)[-1]


def _as_str(value: object, _base: Path) -> str:
    if not isinstance(value, str):
        raise TypeError("must be a string")
    return value


def _as_path(value: object, base: Path) -> Path:
    return base / _as_str(value, base)


def _as_bool(value: object, _base: Path) -> bool:
    if not isinstance(value, bool):
        raise TypeError("must be true or false")
    return value


def _as_int(value: object, _base: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("must be a whole number, 0 or more")
    return value


def _as_float(value: object, _base: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("must be a number, 0 or more")
    if not 0 <= value <= sys.float_info.max:  # nor NaN, which keeps no bound
        raise TypeError("must be a number, 0 or more")
    return float(value)


def _as_tuple(value: object, base: Path) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("must be a list of strings")
    return tuple(_as_str(item, base) for item in value)


def _as_mapping(value: object, base: Path) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise TypeError("must be a table of strings")
    return MappingProxyType({str(k): _as_str(v, base) for k, v in value.items()})


def _as_patience(value: object, _base: Path) -> PatienceTable:
    """Its numbers are the edge's own, its tables a model's or a path's, which have the edge's where they lack one."""
    if not isinstance(value, dict):
        raise TypeError("must be a table")
    own = {name: _as_seconds(name, each) for name, each in value.items() if not isinstance(each, dict)}
    special = {
        name: own | {phase: _as_seconds(phase, each) for phase, each in table.items()}
        for name, table in value.items()
        if isinstance(table, dict)
    }
    if any("/" not in name for name in special):
        raise ValueError("its tables are named after a model (org/name) or a path (/v1/...)")
    return MappingProxyType({"": own, **special})


def _as_seconds(name: str, value: object) -> float:
    if name not in PHASES:
        raise ValueError(f"{name!r} is none of {', '.join(PHASES)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise TypeError(f"{name} must be a number of seconds above 0")
    return float(value)


_CONVERTERS: Mapping[str, Callable[[object, Path], object]] = MappingProxyType(
    {
        "str": _as_str,
        "Path": _as_path,
        "bool": _as_bool,
        "int": _as_int,
        "float": _as_float,
        "tuple": _as_tuple,
        "Mapping": _as_mapping,
        "PatienceTable": _as_patience,
    }
)


def known(raw: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    """Refuse a key that is none of `names`, with the one that was probably meant. Raises ConfigError."""
    for key in raw:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else f" Known keys: {', '.join(names)}."
            raise ConfigError(f"unknown key `{where + '.' if where else ''}{key}`.{hint}")


def table(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section that must be there. Raises ConfigError."""
    found = tree.get(name)
    if not isinstance(found, dict):
        raise ConfigError(f"the section [{name}] is missing or is not a table")
    return found


def items(kind: type[T], tree: Mapping[str, Any], section: str, base: Path) -> tuple[T, ...]:
    """The tables of a list, `[[section]]`, in their order."""
    listed = tree.get(section, [])
    if not isinstance(listed, list):
        raise ConfigError(f"{section} is a list of tables: write [[{section}]]")
    return tuple(entry(kind, each, f"{section}[{i}]", base) for i, each in enumerate(listed))
