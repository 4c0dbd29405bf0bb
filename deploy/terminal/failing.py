"""How a command fails: every error that a user can cause or mend, as its cause, the next command and its exit status.

Errors are known by the names of their classes, so that a command which cannot fail so does not load what would.
"""

from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import NamedTuple

import typer

from deploy.faults import NOT_YOURS
from deploy.terminal import remedy
from deploy.terminal.exits import Exit

CERTIFICATE = (
    "put the chain and its key (mode 0600) where [edges.NAME] says; nearfield up makes both, in its tls/"
)


class Cause(NamedTuple):
    """What an error is called by programs, its exit status, and the command that helps where it names none itself."""

    code: str
    status: Exit
    next_step: str


CAUSES: Mapping[str, Cause] = MappingProxyType(
    {
        "deploy.trust.credentials.NoPlatform": Cause("no_platform", Exit.NOT_READY, "nearfield up"),
        "deploy.client.Unreachable": Cause("unreachable", Exit.NOT_READY, "nearfield doctor"),
        "deploy.client.ApiError": Cause("", Exit.FAILED, "nearfield doctor"),
        "deploy.faults.Silent": Cause("no_answer", Exit.TIMEOUT, "nearfield doctor"),
        "deploy.faults.StateInUse": Cause("state_in_use", Exit.NOT_READY, "nearfield stop"),
        "deploy.faults.StateUnusable": Cause("state_unusable", Exit.NOT_READY, "nearfield up --state DIR"),
        "deploy.faults.NotYours": Cause("not_yours", Exit.FAILED, NOT_YOURS),
        "deploy.faults.RoleFailed": Cause("role_failed", Exit.FAILED, "nearfield logs"),
        "deploy.faults.PortTaken": Cause("port_taken", Exit.NOT_READY, "nearfield doctor"),
        "deploy.faults.NoPorts": Cause("no_ports", Exit.NOT_READY, "nearfield doctor"),
        "deploy.faults.NoRoom": Cause("disk_full", Exit.NOT_READY, "nearfield doctor"),
        "deploy.faults.NotConfirmed": Cause("not_confirmed", Exit.USAGE, "the same command with --yes"),
        "deploy.faults.NoConfig": Cause("no_platform", Exit.NOT_READY, "nearfield up"),
        "deploy.faults.ConfigError": Cause("bad_config", Exit.USAGE, "nearfield config show --origin"),
        "deploy.prices.book.PricesError": Cause("bad_prices", Exit.USAGE, "nearfield push --help"),
        "deploy.trust.secrets.SecretsError": Cause("bad_secret", Exit.FAILED, "nearfield doctor"),
        "edge.certificates.BadPairError": Cause("bad_certificate", Exit.FAILED, CERTIFICATE),
        "storage.client.probe.StoreUnfit": Cause("store_unfit", Exit.REFUSED, "nearfield doctor"),
        "storage.client.answers.StoreError": Cause("store_error", Exit.FAILED, "nearfield doctor"),
        "deploy.models.push.PushRefused": Cause("", Exit.REFUSED, ""),
        "regions.objects.pointer.PointerError": Cause("bad_record", Exit.FAILED, "nearfield doctor"),
        "deploy.faults.NotLive": Cause("", Exit.REFUSED, ""),
    }
)
"""By qualified name, of the class or of one that it inherits from. An empty code: the error carries its own."""

ROOM = "free some of the disk under the store, then the same command again: what went up stays"
CLOCK = "set the clock that is wrong, here or there (timedatectl set-ntp true), then the same command again"
BY_STORE_CODE: Mapping[str, Cause] = MappingProxyType(
    {
        "Unreachable": Cause("unreachable", Exit.NOT_READY, "nearfield doctor"),
        "InsufficientStorage": Cause("disk_full", Exit.FAILED, ROOM),
        "SignatureDoesNotMatch": Cause("invalid_s3_key", Exit.FAILED, "nearfield doctor"),
        "InvalidAccessKeyId": Cause("invalid_s3_key", Exit.FAILED, "nearfield doctor"),
        "RequestTimeTooSkewed": Cause("wrong_clock", Exit.FAILED, CLOCK),
    }
)
"""What a refusal of the store is to us, by S3's own word for it."""
STATUS_BY_CODE: Mapping[str, Exit] = MappingProxyType(
    {"timeout": Exit.TIMEOUT, "not_found": Exit.NOT_FOUND, "unknown_region": Exit.NOT_FOUND}
)
BY_HTTP_STATUS: Mapping[int, tuple[Exit, str]] = MappingProxyType(
    {
        400: (Exit.FAILED, "ask as it says"),
        403: (Exit.FAILED, "nearfield keys ls"),
        404: (Exit.NOT_FOUND, "nearfield ls"),
        429: (Exit.FAILED, "nearfield keys ls"),
        503: (Exit.NOT_READY, "nearfield status"),
    }
)


class errors:  # noqa: N801 - read as `with errors(...)`
    """Turn every error that a user can cause or mend into its words and its exit status; others pass through."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> None:
        """Nothing is held."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _where: TracebackType | None
    ) -> None:
        """Raises typer.Exit in the place of an error that is known."""
        cause = None if kind is None else cause_of(kind)
        if cause is None or error is None:
            return
        code, status, next_step = told(cause, error)
        _say(
            self._as_json, code, _cause_in_words(error), remedy.with_state(_mended(code, error) or next_step)
        )
        raise typer.Exit(status) from error


def cause_of(kind: type[BaseException]) -> Cause | None:
    """What is known of a class of errors."""
    names = (f"{each.__module__}.{each.__qualname__}" for each in kind.__mro__)
    return next((CAUSES[name] for name in names if name in CAUSES), None)


def told(cause: Cause, error: BaseException) -> Cause:
    """The cause with what this error itself says of code, status and next step."""
    if cause is CAUSES["storage.client.answers.StoreError"]:
        return BY_STORE_CODE.get(str(getattr(error, "code", "")), cause)
    code = cause.code or str(getattr(error, "code", "failed"))
    status = STATUS_BY_CODE.get(code, cause.status) if not cause.code else cause.status
    next_step = str(getattr(error, "next_step", "")) or cause.next_step
    if cause is CAUSES["deploy.client.ApiError"]:
        status, next_step = BY_HTTP_STATUS.get(int(getattr(error, "status", 0)), (status, next_step))
    return Cause(code, status, next_step)


def _cause_in_words(error: BaseException) -> str:
    """Without S3's own word for it where ours stands before."""
    is_ours = getattr(error, "code", "") in BY_STORE_CODE
    return str(getattr(error, "message", error)) if is_ours else str(error)


def _mended(code: str, error: BaseException) -> str:
    """The next step where it hangs on the platform that the command was about."""
    state = remedy.state_of_command()
    if state is None:  # a role of a fleet, whose file may lie anywhere
        return "name the fleet's file: --config FILE" if code == "no_platform" else ""
    if code == "unreachable":
        return remedy.of_silence(state)
    if code == "invalid_s3_key":
        return remedy.of_s3_key(state)
    return remedy.of_key(state, str(getattr(error, "key", ""))) if code == "invalid_api_key" else ""


def _say(as_json: bool, code: str, message: str, next_step: str) -> None:
    from deploy.terminal import show  # noqa: PLC0415 - a command that does well loads nothing of this

    if as_json:
        show.emit_json({"error": {"code": code, "message": message, "next": next_step}})
        return
    show.problems().print(f"[bold red]{code}[/]: ", end="")
    show.problems().print(message, markup=False)
    if next_step:
        show.problems().print("next: ", end="")
        show.problems().print(next_step, markup=False)
