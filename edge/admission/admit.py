"""May this head go on? Pure: a request head and the policy in force in, an Admission or a Refusal out.

Rule 1: default deny. A path and method that no row of a listener's routes names is answered as if it did not exist,
and only to holders of a key; without a good key every route but /healthz is the same 401. A key is shown as
`Authorization: Bearer KEY`, or as `x-api-key: KEY` where there is no Authorization.
Rule 2: keys are known by their SHA-256 digest alone; a look-up by the whole digest takes no secret-dependent time.
Rule 3: what steers the platform has a listener of its own, which knows no route for users, nor theirs one of its.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from regions.ask import ASKED
from regions.map.policy import KeyGrant
from wire.bearer import bearer
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.map.policy import PolicyRow
    from wire.http.http1 import RequestHead

MAX_KEY_CHARS: Final = 256  # ours have about 50; nothing longer is worth a hash
MAX_SHOWN_CHARS: Final = MAX_KEY_CHARS + len("Bearer ")
MAX_KNOWN: Final = 16_384  # twice what a policy row can hold; then they are found anew
RETRY_S: Final = 1.0  # a row, and with it the policy, comes each second
NOBODY: Final = KeyGrant("", frozenset(), ())


class Action(StrEnum):
    """What the edge can do for a caller."""

    HEALTH = "health"
    INFER = "infer"
    MODELS = "models"
    MODEL = "model"
    STATUS = "status"
    METRICS = "metrics"
    COOL = "cool"
    PREWARM = "prewarm"
    KEYS = "keys"
    MAKE_KEY = "make_key"
    ROTATE_KEY = "rotate_key"
    REVOKE_KEY = "revoke_key"
    FREEZE = "freeze"
    THAW = "thaw"
    TICKET = "ticket"
    KEEP_REPORT = "keep_report"


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table: who may do what. `scope` None means everybody."""

    method: str
    path: re.Pattern[str]
    action: Action
    scope: str | None


_NO_VALUES: Final[Mapping[str, str]] = MappingProxyType({})


def _route(method: str, path: str, action: Action, scope: str | None) -> Route:
    return Route(method, re.compile(path), action, scope)


_MODEL_PATH: Final = r"/v1/models/(?P<model>[^/%?]{1,64}(?:/|%2[Ff])[^/%?]{1,96})"
_REGION_PATH: Final = r"/nearfield/regions/(?P<region>[a-z][a-z0-9-]{0,31})"
_KEY_PATH: Final = r"/nearfield/keys/(?P<id>[0-9a-f]{12})"
_HEALTH: Final = _route("GET", r"/healthz", Action.HEALTH, None)


class Routes:
    """What one listener serves; a path that is spelled out, as most are, is found by one look-up."""

    def __init__(self, *rows: Route) -> None:
        self.rows = rows
        self._plain = {(row.method, row.path.pattern): row for row in rows if "(" not in row.path.pattern}

    def find(self, head: RequestHead) -> tuple[Route | None, Mapping[str, str]]:
        """The row of a request and the parts of its path; None if there is no such row."""
        plain = self._plain.get((head.method, head.path))
        if plain is not None:
            return plain, _NO_VALUES
        for row in self.rows:
            match = row.path.fullmatch(head.path)
            if match is not None and row.method == head.method:
                return row, MappingProxyType(match.groupdict())
        return None, _NO_VALUES

    def knows(self, path: str) -> bool:
        """Whether any method is served there."""
        return any(row.path.fullmatch(path) for row in self.rows)


USERS: Final = Routes(
    _HEALTH,
    *(_route("POST", re.escape(path), Action.INFER, "infer") for path in ASKED),
    _route("GET", r"/v1/models", Action.MODELS, "infer"),
    _route("GET", _MODEL_PATH, Action.MODEL, "infer"),
)
OPERATORS: Final = Routes(
    _HEALTH,
    _route("GET", r"/nearfield/status", Action.STATUS, "admin"),
    _route("GET", r"/nearfield/metrics", Action.METRICS, "admin"),
    _route("POST", r"/nearfield/rows/freeze", Action.FREEZE, "admin"),
    _route("POST", r"/nearfield/rows/thaw", Action.THAW, "admin"),
    _route("POST", _REGION_PATH + "/cool", Action.COOL, "admin"),
    _route("POST", _REGION_PATH + "/prewarm", Action.PREWARM, "admin"),
    _route("GET", r"/nearfield/keys", Action.KEYS, "admin"),
    _route("POST", r"/nearfield/keys", Action.MAKE_KEY, "admin"),
    _route("POST", _KEY_PATH + "/rotate", Action.ROTATE_KEY, "admin"),
    _route("DELETE", _KEY_PATH, Action.REVOKE_KEY, "admin"),
)

CONSOLE: Final = Routes(
    _route("POST", r"/nearfield/console/tickets", Action.TICKET, "admin"),
    _route("POST", r"/nearfield/reports", Action.KEEP_REPORT, "admin"),
)
"""Of the operators' listener too; `edge/console/desk.py` serves them."""


class Admission(NamedTuple):
    """An admitted request: what it may do, for whom, and the parts of its path.

    `digest` is the SHA-256 hex of the key, empty for /healthz; `grant` is what that key may do.
    """

    action: Action
    digest: str = ""
    grant: KeyGrant = NOBODY
    values: Mapping[str, str] = _NO_VALUES


def admit(
    head: RequestHead, policy: PolicyRow | None, routes: Routes = USERS, *, wall_s: float = 0.0
) -> Admission:
    """Admit `head` under `policy` (None: none was ever heard) at `wall_s`, seconds since 1970.

    Raises Refusal 401, 403, 404, 405, 415, 503.
    """
    route, values = routes.find(head)
    if route is not None and route.scope is None:
        return Admission(route.action, values=values)
    digest, grant = _grant(head, policy)
    _refuse_ended(grant, wall_s)
    if route is None:
        raise _unknown(head, routes)
    if route.scope not in grant.scopes:
        text = f"This key may not do that; use one with the scope {route.scope!r}."
        raise Refusal(403, "insufficient_scope", text)
    _refuse_odd(head, route)
    return Admission(route.action, digest, grant, values)


class Admissions:
    """`admit` by `routes`, remembered while one policy is in force: nearly every request is like one before it."""

    def __init__(self, routes: Routes = USERS) -> None:
        self.routes = routes
        self._policy: PolicyRow | None = None
        self._known: dict[tuple[str, str, bytes], Admission] = {}  # by method, path, digest of what was shown

    def admit(self, head: RequestHead, policy: PolicyRow | None) -> Admission:
        """Admit `head` under `policy`, now, as the function `admit` does. Raises the same."""
        if policy is not self._policy or len(self._known) > MAX_KNOWN:
            self._policy, self._known = policy, {}
        shown = head.get("authorization")
        shown = f"k{head.get('x-api-key')}" if shown is None else f"a{shown}"  # the two never look alike
        if len(shown) > MAX_SHOWN_CHARS:
            return admit(head, policy, self.routes)
        key = (head.method, head.path, hashlib.sha256(shown.encode()).digest())
        known = self._known.get(key)
        if known is None:
            known = admit(head, policy, self.routes, wall_s=time.time())
            if known.action is Action.INFER:
                self._known[key] = known
            return known
        if known.grant.expires_s:
            _refuse_ended(known.grant, time.time())
        if head.get("content-encoding") is not None:
            _refuse_compressed(head)
        return known


def _grant(head: RequestHead, policy: PolicyRow | None) -> tuple[str, KeyGrant]:
    """The digest of the shown key and what it grants. Raises Refusal 401, or 503 while no policy is known."""
    key = bearer(head) if head.get("authorization") is not None else head.get("x-api-key")
    if not key or len(key) > MAX_KEY_CHARS:
        text = "Send your API key as `Authorization: Bearer KEY`; `nearfield env` shows yours."
        raise Refusal(401, "invalid_api_key", text)
    if policy is None:
        text = "This edge has not heard of any keys yet; try again shortly."
        raise Refusal(503, "region_unavailable", text, "server_error", retry_after_s=RETRY_S)
    digest = hashlib.sha256(key.encode()).hexdigest()
    grant = policy.keys.get(digest)
    if grant is None:
        text = "This API key is not known: mistyped, revoked or another platform's; `nearfield keys make` makes one."
        raise Refusal(401, "invalid_api_key", text)
    return digest, grant


def _refuse_ended(grant: KeyGrant, wall_s: float) -> None:
    if grant.expires_s and wall_s >= grant.expires_s:
        raise Refusal(401, "invalid_api_key", "This API key has ended; ask whoever gave it for a new one.")


def _unknown(head: RequestHead, routes: Routes) -> Refusal:
    if routes.knows(head.path):
        return Refusal(405, "method_not_allowed", f"{head.method} is not served at this path.")
    return Refusal(404, "not_found", "Nothing is served at this path.")


def _refuse_odd(head: RequestHead, route: Route) -> None:
    _refuse_compressed(head)
    if route.scope == "admin" and head.get("origin") is not None:
        raise Refusal(403, "forbidden", "Admin routes are not for pages in a browser.")


def _refuse_compressed(head: RequestHead) -> None:
    coding = head.get("content-encoding")
    if coding is not None and coding.lower() != "identity":
        raise Refusal(415, "bad_request", "Send the body uncompressed.")
