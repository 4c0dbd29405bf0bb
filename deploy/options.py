"""Options and arguments that several commands have, with one wording each."""

from pathlib import Path
from typing import Annotated

import typer

STATE_NAME = ".nearfield"

StateOption = Annotated[
    Path,
    typer.Option(
        "--state", envvar="NEARFIELD_STATE", help="Folder that holds everything.", show_default=True
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ModelArgument = Annotated[str, typer.Argument(help="ORG/NAME of a model, as in the bucket `models`.")]
DEFAULT_STATE = Path(STATE_NAME)
