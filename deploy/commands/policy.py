"""`nearfield policy`: the rules that all edges follow, shown; or a file of rules checked and put in force."""

import sys
from pathlib import Path

from deploy import fleet
from deploy.config.document import Config
from deploy.config.read import load
from deploy.faults import ConfigError
from deploy.roles.runner import endpoint
from deploy.terminal import patience, show
from regions.map.names import SYSTEM_BUCKET
from regions.objects.ledger import RULES
from regions.rules import MAX_RULES_BYTES, Ordered, RulesError, read_rules, written
from storage.client.sdk import S3, NotFound


def run(state: Path, file: Path | None) -> None:
    """Print the rules, or take those in `file`.

    Raises:
        ConfigError: no configuration, no such file, or rules that mean nothing.
        StoreError: the home region's store did not take them.
    """
    config = load(state / "nearfield.toml")
    if file is None:
        sys.stdout.write(patience.ask(_read(config), _home_store(config)).decode() + "\n")
        return
    try:
        ordered = read_rules(file.read_bytes(), tuple(config.regions))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", "nearfield policy --help") from error
    except RulesError as error:
        raise ConfigError(f"{file} is not taken: {error}. Nothing was changed.") from error
    patience.ask(_put(config, ordered), _home_store(config))
    edges = ", ".join(ordered.canary_edges)
    said = (
        f"on trial at {edges} for {ordered.trial_s:g} s, then everywhere"
        if edges
        else "for every edge at once"
    )
    show.console().print(f"taken: {said}; `nearfield status` shows how they stand")


def _home_store(config: Config) -> str:
    return f"the home store in region {config.home}"


async def _read(config: Config) -> bytes:
    async with S3(endpoint(config, config.home, fleet.SYSTEM_GRANTS)) as store:
        try:
            return (await store.get(SYSTEM_BUCKET, RULES, max_bytes=MAX_RULES_BYTES)).data
        except NotFound:
            return written(Ordered())


async def _put(config: Config, ordered: Ordered) -> None:
    async with S3(endpoint(config, config.home, fleet.SYSTEM_GRANTS)) as store:
        await store.put(SYSTEM_BUCKET, RULES, written(ordered))
