"""The names that Tab completes: regions from the credentials, models from the edge, asked once and briefly.

A completion is no place for an error: where nothing answers, nothing is offered.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import typer

PATIENCE_S = 1.0
"""A shell that hangs at Tab is worse than one that offers nothing."""
STATE_VARIABLE = "NEARFIELD_STATE"


def region_names(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Regions that start so; of a list by comma, its last name is completed and none is offered twice."""
    done, comma, last = incomplete.rpartition(",")
    taken = done.split(",")
    return (
        f"{done}{comma}{name}" for name in _regions(context) if name.startswith(last) and name not in taken
    )


def model_names(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Models that start so."""
    return (name for name in _models(context) if name.startswith(incomplete))


def _regions(context: typer.Context) -> tuple[str, ...]:
    from deploy.trust import credentials  # noqa: PLC0415 - loaded when Tab is pressed here
    from deploy.trust.secrets import SecretsError  # noqa: PLC0415

    try:
        return tuple(credentials.load(_state(context)).regions)
    except (credentials.NoPlatform, SecretsError, ValueError, TypeError, OSError):
        return ()


def _models(context: typer.Context) -> tuple[str, ...]:
    from deploy.client import ApiError, Client, Unreachable  # noqa: PLC0415
    from deploy.models import standing  # noqa: PLC0415 - loaded when Tab is pressed here
    from deploy.trust import credentials  # noqa: PLC0415 - loaded when Tab is pressed here
    from deploy.trust.secrets import SecretsError  # noqa: PLC0415

    try:
        client = Client(credentials.load(_state(context)), admin=True, patience_s=PATIENCE_S)
        return tuple(standing.models(client.get("/nearfield/status").body))
    except (credentials.NoPlatform, SecretsError, Unreachable, ApiError, ValueError, TypeError, OSError):
        return ()


def _state(context: typer.Context) -> Path:
    """The folder that was typed before, else the environment's, else the usual one."""
    typed = context.params.get("state")
    return Path(typed or os.environ.get(STATE_VARIABLE) or ".nearfield")
