"""The scripts that complete `nearfield` at Tab: typer's own, which ask the command itself for words and names."""

from typer._completion_shared import get_completion_script

PROGRAM = "nearfield"
VARIABLE = "_NEARFIELD_COMPLETE"


def script(name: str) -> str:
    """For one of bash, zsh and fish; it is to be evaluated by that shell."""
    asked = {"prog_name": PROGRAM, "complete_var": VARIABLE, "shell": name}
    return get_completion_script(**asked)
