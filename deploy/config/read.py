"""One TOML for every role: parsed once, here, into frozen values; every address of the fleet stands in it."""

import ipaddress
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deploy.config.checks import check
from deploy.config.convert import entries, entry, items, known, table
from deploy.config.document import Config
from deploy.config.entries import MIB, PlatformEntry, RegionEntry
from deploy.config.sections import acme, dns, engines, tracing
from deploy.config.shape import SHAPES, Form
from deploy.faults import NOT_YOURS, ConfigError, NoConfig

MAX_CONFIG_BYTES = 1 * MIB
"""A fleet of 100 regions is about 40 KiB of TOML; more is a mistake."""

READ: Mapping[Form, Callable[..., Any]] = MappingProxyType({Form.LIST: items, Form.NAMED: entries})
PLAIN = SHAPES.keys() - {"platform", "engines", "dns", "acme", "tracing"}
"""Sections that are in the Config as they are written."""


def load(path: Path) -> Config:
    """Read and check `path`.

    Raises:
        NoConfig: there is no such file.
        ConfigError: unreadable, not TOML, an unknown or missing key, or a value of the wrong type.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise NoConfig(f"there is no {path}: no platform was made in that folder") from error
    except PermissionError as error:
        raise ConfigError(f"{path} is another user's: {error.strerror}", NOT_YOURS) from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is {len(raw)} bytes; at most {MAX_CONFIG_BYTES} are read.")
    try:
        tree = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # an integer of too many digits is a plain ValueError
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return parse(tree, path)


def parse(tree: Mapping[str, Any], path: Path) -> Config:
    """Turn a parsed TOML tree into a Config; relative paths are taken from the file's own folder."""
    base = path.parent
    known(tree, tuple(SHAPES), "")
    platform = entry(PlatformEntry, table(tree, "platform"), "platform", base)
    plain = {
        name: READ[shape.form](shape.kind, tree, name, base)
        for name, shape in SHAPES.items()
        if name in PLAIN
    }
    config = Config(
        path=path,
        home=platform.home,
        secrets=platform.secrets,
        idle_timeout_s=platform.idle_timeout_s,
        quiet_s=platform.quiet_s,
        wan_profile=platform.wan_profile,
        mutual_tls=_mutual_tls(platform, plain["regions"]),
        engines=engines(tree, base),
        dns=dns(tree, base),
        acme=acme(tree, base),
        tracing=tracing(tree, base),
        **plain,
    )
    check(config)
    return config


def _mutual_tls(platform: PlatformEntry, regions: Mapping[str, RegionEntry]) -> bool:
    """Whether edges and gateways show each other certificates: unless told, wherever bytes leave the machine."""
    if platform.mutual_tls is not None:
        return platform.mutual_tls
    return not all(_is_loopback(region.gateway) for region in regions.values())


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
