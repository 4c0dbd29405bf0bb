"""The words of the commands that start, stop and look over what runs on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.terminal.failing import errors
from deploy.words.names import model_names
from deploy.words.options import DEFAULT_STATE, JsonOption, StateOption


def up(
    state: StateOption = DEFAULT_STATE,
    regions: Annotated[str, typer.Option(help="Names of the regions; the first is home.")] = "iad,fra,nrt",
    profile: Annotated[
        str,
        typer.Option(help="`lan`, or `us-eu-jp`: SIMULATED long-distance delays between edge and regions."),
    ] = "lan",
    idle_timeout_s: Annotated[
        float, typer.Option(help="Stop a model's workers after so long unused.")
    ] = 300.0,
    traces: Annotated[
        str | None, typer.Option(help="Send traces to this OTLP/HTTP collector: http://127.0.0.1:4318.")
    ] = None,
    trace_share: Annotated[
        float, typer.Option(help="Of requests that bring no trace, the share that is recorded.")
    ] = 1.0,
    *,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what the state folder holds first.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the whole platform on this machine and keep it up until Ctrl-C."""
    from deploy import lock  # noqa: PLC0415 - each command loads only what it needs
    from deploy.commands import up as command  # noqa: PLC0415

    with errors(as_json=as_json):
        if fresh:
            lock.wipe(state)
        asked = command.plan(state, tuple(regions.split(",")), profile, idle_timeout_s)
        command.run(command.with_traces(asked, traces, trace_share), as_json=as_json)


def run(
    role: Annotated[str, typer.Argument(help="store, node, region, edge, anycast, dns, acme or wan.")],
    name: Annotated[str | None, typer.Argument(help="Which one, when the file names several.")] = None,
    config: Annotated[Path, typer.Option(help="The fleet's one TOML.")] = Path("nearfield.toml"),
) -> None:
    """Run one role of a fleet in this process (what `up` does for each, on one machine)."""
    from deploy.logs import write  # noqa: PLC0415
    from deploy.roles import process  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=False):
        write.start(role, name or "")
        process.serve(role, name, config)


def stop(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Stop this model's workers; without one, everything.", autocompletion=model_names
        ),
    ] = None,
    state: StateOption = DEFAULT_STATE,
    *,
    as_json: JsonOption = False,
) -> None:
    """Stop a model's workers in every region (its next request wakes it), or the whole platform."""
    from deploy.commands import stop as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        if model is None:
            command.platform(state, as_json=as_json)
        else:
            command.workers(saved.load(state), model, as_json=as_json)


def doctor(state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False) -> None:
    """Look this machine and this platform over; each finding has its fix beside it."""
    from deploy.commands import doctor as command  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        raise typer.Exit(command.run(state, as_json=as_json))


def demo(
    state: StateOption = Path(".demo"),
    model: Annotated[Path, typer.Option(help="The chat model's folder.")] = Path("examples/tinychat/model"),
) -> None:
    """Everything once, from nothing: three regions, a push, questions, the report; then all is stopped."""
    from deploy.commands import demo as command  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=False):
        raise typer.Exit(command.run(state, model))
