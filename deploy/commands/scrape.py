"""`nearfield config scrape`: where the figures of every role are, as Prometheus is told."""

import json
from collections.abc import Iterator
from pathlib import Path

from deploy.config.document import Config, figures
from deploy.config.read import load
from deploy.trust import secrets
from wire.address import split_address
from wire.scrape import is_loopback

ROLES = {"stores": "store", "nodes": "node", "regions": "region", "edges": "edge", "dns.servers": "dns"}
KEY_FILE = "nearfield-metrics.key"


def said(path: Path, *, only_key: bool) -> str:
    """The text to print. Raises ConfigError, SecretsError."""
    config = load(path)
    if only_key:
        return secrets.metrics_key(secrets.root_key(config.secrets)) + "\n"
    return "\n".join(_lines(config)) + "\n"


def _lines(config: Config) -> Iterator[str]:
    """The roles' own labels win (`honor_labels`): an edge names the region that it asked."""
    every = figures(config)
    near = {key: at for key, at in every.items() if is_loopback(split_address(at)[0])}
    far = {key: at for key, at in every.items() if key not in near}
    yield "scrape_configs:"
    if near:
        yield from _job(config, "nearfield", near, [])
    if far:
        yield f"  # {KEY_FILE}: what `nearfield config scrape --key` prints, in a file of mode 0600"
        key = ["    authorization:", f"      credentials_file: {KEY_FILE}"]
        yield from _job(config, "nearfield-far", far, key)


def _job(config: Config, name: str, targets: dict[str, str], key: list[str]) -> Iterator[str]:
    yield from (f"  - job_name: {name}", "    honor_labels: true", *key, "    static_configs:")
    for where, address in targets.items():
        section, _, own = where.rpartition(".")
        labels = {"role": ROLES.get(section, section), "name": own, "region": _region(config, section, own)}
        known = ", ".join(f"{label}: {value}" for label, value in labels.items() if value)
        yield f"      - targets: [{json.dumps(address)}]"
        yield f"        labels: {{{known}}}"


def _region(config: Config, section: str, name: str) -> str:
    if section == "nodes":
        return config.nodes[name].region
    return name if section in {"stores", "regions"} else ""
