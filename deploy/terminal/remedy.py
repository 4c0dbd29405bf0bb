"""The command that comes next, of the platform that the failed one was about: a folder that was named goes along."""

from pathlib import Path
from typing import Any

from typer._click.globals import get_current_context

from deploy.terminal import pasted
from deploy.trust.credentials import FILE_NAME

NAMED = "COMMANDLINE"  # typer's name of where a value came from; an environment variable holds for what is typed next


def state_of_command() -> Path | None:
    """The state folder of the command that runs; None outside one, and of one that has none."""
    context = get_current_context(silent=True)
    state = None if context is None else context.params.get("state")
    return state if isinstance(state, Path) else None


def with_state(step: str) -> str:
    """A command of ours with the folder that was typed; words that are no command of ours as they are."""
    if not step.startswith("nearfield ") or "--state" in step or "--help" in step:
        return step
    return step + flag()


def flag() -> str:
    """` --state DIR` as it was typed, or nothing where it was not."""
    context: Any = get_current_context(silent=True)
    source = None if context is None else context.get_parameter_source("state")
    return pasted.state_option(state_of_command()) if source is not None and source.name == NAMED else ""


def of_silence(state: Path) -> str:
    """A platform of this folder that does not run is to be started; else `doctor` finds what is wrong."""
    from deploy.lock import holder  # noqa: PLC0415 - a command that does well asks nobody

    is_ours = (state / "nearfield.toml").exists()
    return "nearfield up" if is_ours and holder(state) is None else "nearfield doctor"


def of_key(state: Path, key: str) -> str:
    """An API key that is not let in: one of a platform on this machine comes back with a start, any other is made."""
    file = state / FILE_NAME
    if key == "api_key":
        return f"nearfield keys make default{flag()}   # and put it into {file} as api_key"
    return _by_a_start(state, f"ask the operator for an admin key, and put it into {file} as admin_key")


def of_s3_key(state: Path) -> str:
    """The same of the key to the bucket, which a start writes anew."""
    file = state / FILE_NAME
    return _by_a_start(
        state, f"ask the operator for s3_access_key and s3_secret_key, and put them into {file}"
    )


def _by_a_start(state: Path, otherwise: str) -> str:
    if not (state / "nearfield.toml").exists():
        return otherwise
    again = f"nearfield stop{flag()}; nearfield up{flag()}"
    return f"{again}   # a start makes the keys in {state / FILE_NAME} hold again"
