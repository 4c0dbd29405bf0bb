"""`nearfield config`: every setting that holds and where it stands, or what is wrong with the file."""

import json
import tomllib
from pathlib import Path

from deploy.config.origin import DEFAULT, settings
from deploy.config.read import load
from deploy.terminal import show
from wire.counted import counted


def show_all(path: Path, *, origin: bool, as_json: bool) -> None:
    """Print the settings of a file that every role would take. Raises ConfigError."""
    load(path)
    text = path.read_text()
    found = list(settings(tomllib.loads(text), text))
    if as_json:
        show.emit_json(
            [
                {
                    "key": each.name,
                    "value": each.value,
                    "line": each.line or None,
                    "origin": each.origin(path),
                }
                for each in found
            ]
        )
        return
    console = show.console()
    if not origin:
        for each in found:
            console.print(f"{each.name} = {json.dumps(each.value)}", markup=False)
        return
    rows = [
        (each.name, json.dumps(each.value), f"[dim]{DEFAULT}[/]" if not each.line else each.origin(path))
        for each in found
    ]
    console.print(show.table(("key", "value", "from"), rows))


def check(path: Path, *, as_json: bool) -> None:
    """Read it as every role would. Raises ConfigError: the first thing that is wrong, with the key to change."""
    config = load(path)
    counts = {
        "stores": len(config.stores),
        "nodes": len(config.nodes),
        "regions": len(config.regions),
        "edges": len(config.edges),
    }
    if as_json:
        show.emit_json({"path": str(path), "is_sound": True, **counts})
    else:
        words = ", ".join(counted(count, name.removesuffix("s")) for name, count in counts.items())
        show.console().print(f"{path} is sound: {words}", markup=False)
