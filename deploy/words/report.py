"""`nearfield report`: the words of its commands. `nearfield report ORG/NAME` is `nearfield report run ORG/NAME`."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.terminal.failing import errors
from deploy.words.options import DEFAULT_STATE, JsonOption, ModelArgument, RegionsOption, StateOption, split
from deploy.words.quick import QuickCommand, QuickGroup

RUN = "run"
FailIf = Annotated[
    list[str] | None,
    typer.Option("--fail-if", help="Exit with 6 if this is so, such as 'region.p50 > 1.1*base'; repeatable."),
]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write a comment for a pull request.")]


class ModelOrCommand(QuickGroup):
    """What is not the name of a command is the model that `run` measures."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """With `run` in front, if no command is named."""
        if args and args[0] not in {*self.commands, "--help", "-h"}:
            args = [RUN, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=ModelOrCommand,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure cold starts against warm requests: nearfield report ORG/NAME; compare two reports.",
)


@app.command(RUN, cls=QuickCommand)
def run_command(
    model: ModelArgument,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json-file", help="Write the measured document.")
    ] = None,
    jsonl: Annotated[Path | None, typer.Option(help="Write every request, one a line.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the rows as a table.")] = None,
    markdown: MarkdownFile = None,
    out: Annotated[Path | None, typer.Option(help="Write all of these into this folder.")] = None,
    regions: RegionsOption = None,
    cold: Annotated[int, typer.Option(min=1, help="Cold starts for each region and start state.")] = 3,
    warm: Annotated[int, typer.Option(min=1, help="Warm requests for each region.")] = 20,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Warm requests a second; as many as one client makes.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Order of the arms; another one each time.")] = None,
    arms: Annotated[
        str, typer.Option("--with", help="Further arms: places,herd,gaps,sizes,split or all.")
    ] = "",
    herd: Annotated[int | None, typer.Option(min=1, max=1000, help="Requests at once.")] = None,
    gaps: Annotated[str | None, typer.Option(help="Seconds left alone, with commas between.")] = None,
    prices: Annotated[
        Path | None,
        typer.Option(help="A price file (TOML); else prices.toml of the state folder, or list prices."),
    ] = None,
    base: Annotated[Path | None, typer.Option(help="An earlier report.json, for --fail-if.")] = None,
    fail_if: FailIf = None,
    state: StateOption = DEFAULT_STATE,
    *,
    full: Annotated[bool, typer.Option("--full", help="All further arms: `--with all`.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure cold starts against warm requests in each region, phase by phase and byte by byte."""
    from deploy.commands import report as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        outputs = command.Outputs(html, json_file, jsonl, csv, markdown).or_in(out)
        order = command.Order(
            model=model,
            regions=split(regions),
            num_cold=cold,
            num_warm=warm,
            seed=seed,
            outputs=outputs,
            rate=rate,
            more=command.further("all" if full else arms, herd, gaps),
            prices=prices,
            gate=command.gate(fail_if or [], base),
        )
        raise typer.Exit(command.run(saved.load(state), order, as_json=as_json))


@app.command("diff", cls=QuickCommand)
def diff_command(
    before: Annotated[Path, typer.Argument(help="The earlier report.json.")],
    after: Annotated[Path, typer.Argument(help="The later one.")],
    markdown: MarkdownFile = None,
    fail_if: FailIf = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Compare two reports: what changed, and whether chance alone could have made it."""
    from deploy.commands import report_diff as command  # noqa: PLC0415

    with errors(as_json=as_json):
        raise typer.Exit(command.run(before, after, fail_if or [], markdown, as_json=as_json))
