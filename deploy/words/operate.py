"""The words of the commands for who keeps a platform: how it stands, its logs, its rules, what was used."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.terminal.failing import errors
from deploy.words.names import model_names, region_names
from deploy.words.options import DEFAULT_STATE, JsonOption, StateOption


def status(
    state: StateOption = DEFAULT_STATE,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing it, once a second, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """The regions as the edge hears them: distance, freshness, measured bandwidth, what runs."""
    from deploy.commands import status as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        show = command.watch if watch else command.once
        show(saved.load(state), as_json=as_json)


def console(
    state: StateOption = DEFAULT_STATE,
    *,
    opens: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
    as_json: JsonOption = False,
) -> None:
    """A link to the live page of the platform that is logged in: worth one visit, within the minute."""
    from deploy.commands import console as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        command.run(saved.load(state), opens=opens, as_json=as_json)


def logs(
    model: Annotated[
        str, typer.Option("--model", help="About this model only.", autocompletion=model_names)
    ] = "",
    region: Annotated[
        str, typer.Option("--region", help="Of this region only.", autocompletion=region_names)
    ] = "",
    request: Annotated[
        str, typer.Option("--request", help="About one request: its x-request-id, or how that begins.")
    ] = "",
    role: Annotated[str, typer.Option("--role", help="Of this role only: edge, region, node, store.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="The last so many; 0: all.")] = 50,
    state: StateOption = DEFAULT_STATE,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What the roles on this machine said, and each request that reached an engine, in the order of time."""
    from deploy.commands import logs as command  # noqa: PLC0415 - each command loads only what it needs
    from deploy.logs.line import Wanted  # noqa: PLC0415

    with errors(as_json=as_json):
        command.run(state, Wanted(model, region, request, role), lines, follow=follow, as_json=as_json)


def policy(
    file: Annotated[
        Path | None, typer.Argument(help="Rules to put in force (JSON); without it they are shown.")
    ] = None,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Where requests may go, and by which names: areas, residency, aliases, drained regions, canaries."""
    from deploy.commands import policy as command  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=False):
        command.run(state, file)


def usage(
    tenant: Annotated[str, typer.Option(help="Of this tenant only.")] = "",
    key: Annotated[str, typer.Option(help="Of the key with this id, as `nearfield keys ls` lists it.")] = "",
    model: Annotated[str, typer.Option(help="Of this model only.", autocompletion=model_names)] = "",
    since: Annotated[str, typer.Option(help="From this day on, YYYY-MM-DD in UTC.")] = "",
    config: Annotated[
        Path | None, typer.Option(help="The fleet's TOML; that of the state folder if not given.")
    ] = None,
    state: StateOption = DEFAULT_STATE,
    *,
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Compare with the engines' own logs and /metrics.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What tenants and keys used: requests, tokens and device-seconds, each request once."""
    from deploy.commands import usage as command  # noqa: PLC0415 - each command loads only what it needs

    if since and not command.DAY.fullmatch(since):
        raise typer.BadParameter("--since is a day: YYYY-MM-DD")
    with errors(as_json=as_json):
        wanted = command.Wanted(tenant, key, model, since)
        path = config or state / "nearfield.toml"
        raise typer.Exit(command.run(path, wanted, reconcile=reconcile, as_json=as_json))
