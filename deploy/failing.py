"""How a command fails: every error that a user can cause or mend, as its words and its exit status."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from deploy import show
from deploy.client import ApiError, Unreachable
from deploy.credentials import NoPlatform
from deploy.exits import Exit
from deploy.faults import ConfigError, RoleFailed, StateInUse
from deploy.push import PushRefused
from deploy.secrets import SecretsError
from deploy.watch import NotLive
from storage.client.probe import StoreUnfit
from storage.client.sdk import StoreError

_CAUSES: tuple[tuple[type[Exception], Exit, str], ...] = (
    (NoPlatform, Exit.NOT_READY, "no_platform"),
    (Unreachable, Exit.NOT_READY, "unreachable"),
    (StateInUse, Exit.NOT_READY, "state_in_use"),
    (RoleFailed, Exit.FAILED, "role_failed"),
    (ConfigError, Exit.USAGE, "bad_config"),
    (SecretsError, Exit.FAILED, "bad_secret"),
    (StoreUnfit, Exit.REFUSED, "store_unfit"),
    (StoreError, Exit.FAILED, "store_error"),
)


_STATUS_BY_CODE = {"timeout": Exit.TIMEOUT, "not_found": Exit.NOT_FOUND, "unknown_region": Exit.NOT_FOUND}


@contextmanager
def errors(*, as_json: bool) -> Iterator[None]:
    """Turn every error that a user can cause or mend into its words and its exit status."""
    try:
        yield
    except (PushRefused, NotLive) as error:
        status = _STATUS_BY_CODE.get(error.code, Exit.REFUSED)
        _fail(as_json, status, error.code, str(error), error.next_step)
    except ApiError as error:
        status = Exit.NOT_FOUND if error.status == 404 else Exit.FAILED
        status = Exit.NOT_READY if error.status == 503 else status
        _fail(as_json, status, error.code, str(error), "")
    except tuple(kind for kind, _, _ in _CAUSES) as error:
        status, code = next((s, c) for kind, s, c in _CAUSES if isinstance(error, kind))
        _fail(as_json, status, code, str(error), "")


def _fail(as_json: bool, status: Exit, code: str, message: str, next_step: str) -> None:
    if as_json:
        show.emit_json({"error": {"code": code, "message": message, "next": next_step}})
    else:
        show.problems().print(f"[bold red]{code}[/]: {message}", style=None)
        if next_step:
            show.problems().print(f"next: {next_step}")
    raise typer.Exit(status)
