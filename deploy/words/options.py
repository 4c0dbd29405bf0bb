"""Options and arguments that several commands have, with one wording each and their values completed by Tab."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.words.names import model_names, region_names

STATE_NAME = ".nearfield"
DEFAULT_STATE = Path(STATE_NAME)

StateOption = Annotated[
    Path,
    typer.Option(
        "--state", envvar="NEARFIELD_STATE", help="Folder that holds everything.", show_default=True
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="ORG/NAME of a model, as in the bucket `models`.", metavar="ORG/NAME", autocompletion=model_names
    ),
]
RegionsOption = Annotated[
    str | None,
    typer.Option("--regions", help="Only these, by comma; all if not given.", autocompletion=region_names),
]
TimeoutOption = Annotated[float, typer.Option("--timeout-s", help="Wait so long for it to be live.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is live everywhere.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def split(names: str | None) -> tuple[str, ...] | None:
    """Names by comma as they were typed; None where none were."""
    return tuple(names.split(",")) if names else None
