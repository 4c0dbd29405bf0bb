"""The command `nearfield`: the words of each command; the work is in `deploy/commands/`, one file each."""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from deploy import credentials as saved
from deploy import show
from deploy.commands.keys import app as keys_app
from deploy.exits import Exit
from deploy.failing import errors
from deploy.options import DEFAULT_STATE, JsonOption, ModelArgument, StateOption
from deploy.s3tools import TOOLS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Push weights to a bucket; get an OpenAI-compatible HTTPS endpoint in every region you named.",
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not ready, 5 timed out, "
    "6 a gate failed, 7 the push was refused.",
)

app.add_typer(keys_app, name="keys")


@app.command("up")
def up_command(
    state: StateOption = DEFAULT_STATE,
    regions: Annotated[str, typer.Option(help="Names of the regions; the first is home.")] = "iad,fra,nrt",
    profile: Annotated[
        str,
        typer.Option(help="`lan`, or `us-eu-jp`: SIMULATED long-distance delays between edge and regions."),
    ] = "lan",
    idle_timeout_s: Annotated[
        float, typer.Option(help="Stop a model's workers after so long unused.")
    ] = 300.0,
    *,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what the state folder holds first.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the whole platform on this machine and keep it up until Ctrl-C."""
    from deploy import up  # noqa: PLC0415 - each command loads only what it needs
    from deploy.commands import up as command  # noqa: PLC0415

    with errors(as_json=as_json):
        if fresh:
            up.wipe(state)
        command.run(state, tuple(regions.split(",")), profile, idle_timeout_s, as_json=as_json)


@app.command("run")
def run_command(
    role: Annotated[str, typer.Argument(help="store, node, region, edge, anycast, dns, acme or wan.")],
    name: Annotated[str | None, typer.Argument(help="Which one, when the file names several.")] = None,
    config: Annotated[Path, typer.Option(help="The fleet's one TOML.")] = Path("nearfield.toml"),
) -> None:
    """Run one role of a fleet in this process (what `up` does for each, on one machine)."""
    from deploy import process  # noqa: PLC0415

    with errors(as_json=False):
        process.start_logging()
        process.serve(role, name, config)


@app.command("push")
def push_command(
    folder: Annotated[Path, typer.Argument(help="A model in Hugging Face layout.")],
    model: ModelArgument,
    regions: Annotated[str | None, typer.Option(help="Serve it here; everywhere if not given.")] = None,
    timeout_s: Annotated[float, typer.Option(help="Wait so long for it to be live.")] = 600.0,
    state: StateOption = DEFAULT_STATE,
    *,
    as_json: JsonOption = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is live everywhere.")] = True,
) -> None:
    """Upload a model folder and see it live in its regions."""
    from deploy.commands import push as command  # noqa: PLC0415

    with errors(as_json=as_json):
        where = tuple(regions.split(",")) if regions else None
        command.run(saved.load(state), folder, model, where, timeout_s if wait else 0.0, as_json=as_json)


@app.command("ls")
def ls_command(state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False) -> None:
    """The models, and where each one stands in each region."""
    from deploy.commands import ls as command  # noqa: PLC0415

    with errors(as_json=as_json):
        command.models(saved.load(state), as_json=as_json)


@app.command("status")
def status_command(state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False) -> None:
    """The regions as the edge hears them: distance, freshness, measured bandwidth, what runs."""
    from deploy.commands import ls as command  # noqa: PLC0415

    with errors(as_json=as_json):
        command.regions(saved.load(state), as_json=as_json)


@app.command("policy")
def policy_command(
    file: Annotated[
        Path | None, typer.Argument(help="Rules to put in force (JSON); without it they are shown.")
    ] = None,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Where requests may go, and by which names: areas, residency, aliases, drained regions, canaries."""
    from deploy.commands import policy as command  # noqa: PLC0415

    with errors(as_json=False):
        command.run(state, file)


@app.command("chat")
def chat_command(
    model: ModelArgument,
    prompt: Annotated[str | None, typer.Argument(help="The question; without one, a conversation.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="Ask one region by its own address.")] = None,
    max_tokens: Annotated[int, typer.Option(help="At most so many tokens.")] = 256,
    state: StateOption = DEFAULT_STATE,
    *,
    as_json: JsonOption = False,
) -> None:
    """Ask a model through the edge; the last line says where the time went."""
    from deploy.commands import chat as command  # noqa: PLC0415

    with errors(as_json=as_json):
        command.run(saved.load(state), model, prompt, region, max_tokens, as_json=as_json)


@app.command("report")
def report_command(
    model: ModelArgument,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json-file", help="Write the measured document.")
    ] = None,
    regions: Annotated[str | None, typer.Option(help="Only these regions.")] = None,
    cold: Annotated[int, typer.Option(min=1, help="Cold starts for each region and start state.")] = 3,
    warm: Annotated[int, typer.Option(min=1, help="Warm requests for each region.")] = 20,
    seed: Annotated[int, typer.Option(help="Order of the arms.")] = 0,
    state: StateOption = DEFAULT_STATE,
    *,
    as_json: JsonOption = False,
) -> None:
    """Measure cold starts against warm requests in each region, phase by phase and byte by byte."""
    from deploy.commands import report as command  # noqa: PLC0415

    with errors(as_json=as_json):
        where = tuple(regions.split(",")) if regions else None
        order = command.Order(model, where, cold, warm, seed, html, json_file)
        raise typer.Exit(command.run(saved.load(state), order, as_json=as_json))


@app.command("usage")
def usage_command(
    tenant: Annotated[str, typer.Option(help="Of this tenant only.")] = "",
    key: Annotated[str, typer.Option(help="Of the key with this id, as `nearfield keys ls` lists it.")] = "",
    model: Annotated[str, typer.Option(help="Of this model only.")] = "",
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
    from deploy.commands import usage as command  # noqa: PLC0415

    if since and not command.DAY.fullmatch(since):
        raise typer.BadParameter("--since is a day: YYYY-MM-DD")
    with errors(as_json=as_json):
        wanted = command.Wanted(tenant, key, model, since)
        path = config or state / "nearfield.toml"
        raise typer.Exit(command.run(path, wanted, reconcile=reconcile, as_json=as_json))


@app.command("stop")
def stop_command(
    model: Annotated[
        str | None, typer.Argument(help="Stop this model's workers; without one, everything.")
    ] = None,
    state: StateOption = DEFAULT_STATE,
    *,
    as_json: JsonOption = False,
) -> None:
    """Stop a model's workers in every region (its next request wakes it), or the whole platform."""
    from deploy.commands import stop as command  # noqa: PLC0415

    with errors(as_json=as_json):
        if model is None:
            command.platform(state, as_json=as_json)
        else:
            command.workers(saved.load(state), model, as_json=as_json)


@app.command("rm")
def rm_command(
    model: ModelArgument,
    state: StateOption = DEFAULT_STATE,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take a model out of every region and delete its objects."""
    from deploy.commands import stop as command  # noqa: PLC0415

    with errors(as_json=as_json):
        if not yes and not typer.confirm(f"Delete {model} and everything under models/{model}/ ?"):
            show.console().print("nothing was deleted")
            raise typer.Exit(Exit.FAILED)
        command.remove(saved.load(state), model, as_json=as_json)


@app.command("env")
def env_command(state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False) -> None:
    """Settings for aws, boto3, curl and the openai client: eval "$(nearfield env)"."""
    with errors(as_json=as_json):
        environment = saved.load(state).environment()
        if as_json:
            show.emit_json(environment)
        else:
            sys.stdout.writelines(f"export {name}='{value}'\n" for name, value in environment.items())


@app.command("s3")
def s3_command(
    tool: Annotated[str | None, typer.Argument(help="aws, boto3, rclone or s5cmd (all)")] = None,
    state: StateOption = DEFAULT_STATE,
    *,
    as_json: JsonOption = False,
) -> None:
    """The bucket's settings, ready to paste, for aws, boto3, rclone and s5cmd."""
    if tool is not None and tool not in TOOLS:
        raise typer.BadParameter(f"one of {', '.join(TOOLS)}")
    with errors(as_json=as_json):
        credentials = saved.load(state)
        chosen = {name: say(credentials) for name, say in TOOLS.items() if tool in {None, name}}
        if as_json:
            show.emit_json(chosen)
        else:
            sys.stdout.write(
                "\n\n".join(text if tool else f"# {name}\n{text}" for name, text in chosen.items())
            )
            sys.stdout.write("\n")


@app.command("doctor")
def doctor_command(state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False) -> None:
    """Look this machine and this platform over; each finding has its fix beside it."""
    from deploy import doctor  # noqa: PLC0415

    findings = doctor.examine(state)
    if as_json:
        show.emit_json([{"name": f.name, "well": f.well, "seen": f.seen, "fix": f.fix} for f in findings])
    else:
        rows = [("✓" if f.well else "✗", f.name, f.seen, "" if f.well else f.fix) for f in findings]
        show.console().print(show.table(("", "what", "seen", "what to do"), rows))
    raise typer.Exit(Exit.OK if all(f.well for f in findings) else Exit.NOT_READY)


@app.command("demo")
def demo_command(
    state: StateOption = Path(".demo"),
    model: Annotated[Path, typer.Option(help="The chat model's folder.")] = Path("examples/tinychat/model"),
) -> None:
    """Everything once, from nothing: three regions, a push, questions, the report; then all is stopped."""
    from deploy.commands import demo as command  # noqa: PLC0415

    with errors(as_json=False):
        raise typer.Exit(command.run(state, model))


def main() -> None:
    """The entry point of `nearfield`."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # an interrupted command must not end in a developer's warning
    app()
