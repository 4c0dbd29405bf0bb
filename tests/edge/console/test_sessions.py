"""Sessions, tickets, and what a browser may send: no socket, no clock."""

import hashlib
import itertools

import pytest

from edge.console import guard, sessions
from edge.console.sessions import IDLE_S, LIFE_S, MAX_SESSIONS, TICKET_S, Sessions
from regions.map.policy import KeyGrant, PolicyRow
from wire.http.heads import RequestHead
from wire.refused.refusal import Refusal

ADMIN, TENANT, ENDED = "nf-admin", "nf-tenant", "nf-ended"


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


POLICY = PolicyRow(
    1,
    1,
    {
        digest(ADMIN): KeyGrant("ops", frozenset({"admin"})),
        digest(TENANT): KeyGrant("acme", frozenset({"infer"})),
        digest(ENDED): KeyGrant("ops", frozenset({"admin"}), expires_s=100),
    },
)
REVOKED = PolicyRow(1, 2, {})


def made():
    numbers = itertools.count()
    return Sessions(lambda num: next(numbers).to_bytes(num, "big"))


def logged_in(found):
    halves = found.log_in(ADMIN, POLICY, 0.0, 0.0)
    assert halves is not None
    return halves


@pytest.mark.parametrize("key", [TENANT, ENDED, "", "nf-admin ", digest(ADMIN)])
def test_only_an_admin_key_that_holds_logs_in(key):
    found = made()
    assert found.log_in(key, POLICY, 0.0, 200.0) is None
    assert len(found) == 0


def test_nobody_logs_in_before_a_policy_was_heard():
    assert made().log_in(ADMIN, None, 0.0, 0.0) is None


def test_a_session_is_its_two_halves_and_neither_alone():
    found = made()
    halves, other = logged_in(found), logged_in(found)
    holder = found.holder(halves.cookie, halves.token, POLICY, 1.0, 1.0)
    assert holder == (digest(ADMIN), POLICY.keys[digest(ADMIN)])
    for cookie, token in [
        (halves.cookie, ""),
        ("", halves.token),
        (halves.cookie, other.token),
        (halves.token, halves.cookie),
        (halves.cookie, halves.cookie),
    ]:
        assert found.holder(cookie, token, POLICY, 1.0, 1.0) is None
    assert found.holder(halves.cookie, None, POLICY, 1.0, 1.0) == holder, "what the browser opens by itself"


def test_a_session_ends_with_its_key():
    found = made()
    halves = logged_in(found)
    assert found.holder(*halves, REVOKED, 1.0, 1.0) is None
    assert found.holder(*halves, POLICY, 1.0, 1.0) is None, "and does not come back"


@pytest.mark.parametrize(("times", "holds"), [([IDLE_S], True), ([IDLE_S + 1], False), ([LIFE_S + 1], False)])
def test_a_session_ends_by_itself(times, holds):
    found = made()
    halves = logged_in(found)
    assert [found.holder(*halves, POLICY, at, 0.0) is not None for at in times] == [holds]


def test_a_session_in_use_ends_after_its_whole_life():
    found = made()
    halves = logged_in(found)
    at, num = 0.0, 0
    while found.holder(*halves, POLICY, at, 0.0) is not None:
        at, num = at + IDLE_S / 2, num + 1
    assert LIFE_S < at <= LIFE_S + IDLE_S / 2
    assert num > 2


def test_logging_out_ends_one_session_alone():
    found = made()
    one, other = logged_in(found), logged_in(found)
    found.end(one.cookie)
    assert found.holder(*one, POLICY, 1.0, 0.0) is None
    assert found.holder(*other, POLICY, 1.0, 0.0) is not None


def test_sessions_are_bounded_and_the_silent_one_goes():
    found = made()
    first, *others = [logged_in(found) for _ in range(MAX_SESSIONS)]
    found.holder(*first, POLICY, 1.0, 0.0)
    logged_in(found)
    assert len(found) == MAX_SESSIONS
    assert found.holder(*first, POLICY, 1.0, 0.0) is not None
    assert found.holder(*others[0], POLICY, 1.0, 0.0) is None


def test_a_ticket_is_worth_one_log_in_soon():
    found = made()
    late, soon = found.ticket(digest(ADMIN), 0.0), found.ticket(digest(ADMIN), 1.0)
    assert found.redeem(late, POLICY, TICKET_S, 0.0) is None
    assert found.redeem(soon, POLICY, TICKET_S, 0.0) is not None
    assert found.redeem(soon, POLICY, TICKET_S, 0.0) is None
    assert found.redeem(found.ticket(digest(ADMIN), 0.0), REVOKED, 1.0, 0.0) is None
    assert found.redeem("", POLICY, 0.0, 0.0) is None
    tickets = [found.ticket(digest(ADMIN), 0.0) for _ in range(sessions.MAX_TICKETS + 1)]
    assert found.redeem(tickets[0], POLICY, 1.0, 0.0) is None


def head(method="POST", **headers):
    pairs = tuple(
        (name.replace("_", "-"), value) for name, value in {"host": "localhost:8445", **headers}.items()
    )
    return RequestHead(method, "/console/x", "/console/x", "", pairs, None, False, True, False)


@pytest.mark.parametrize(
    ("method", "headers", "passes"),
    [
        ("POST", {"origin": "https://localhost:8445"}, True),
        ("POST", {"origin": "https://localhost:8445", "sec_fetch_site": "same-origin"}, True),
        ("POST", {}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {"origin": "https://localhost:3000"}, False),
        ("POST", {"origin": "https://localhost:8445.evil.example"}, False),
        ("POST", {"origin": "https://evil.example", "host": "localhost:8445"}, False),
        ("POST", {"origin": "https://localhost:8445", "sec_fetch_site": "same-site"}, False),
        ("DELETE", {"origin": "https://evil.example"}, False),
        ("GET", {}, True),
        ("GET", {"sec_fetch_site": "none"}, True),
        ("GET", {"sec_fetch_site": "cross-site"}, False),
        ("GET", {"origin": "https://evil.example"}, False),
    ],
)
def test_a_page_of_another_origin_is_refused(method, headers, passes):
    if passes:
        guard.refuse_foreign(head(method, **headers))
    else:
        with pytest.raises(Refusal) as refused:
            guard.refuse_foreign(head(method, **headers))
        assert refused.value.status == 403


def test_a_cookie_is_found_among_others_and_read_strictly():
    name, value = guard.cookie_name("fra"), "0" * 64
    assert guard.cookie(head(cookie=f"a=b; {name}={value}; c"), name) == value
    for wrong in (
        f"{name}={value[1:]}",
        f"{name}={'G' * 64}",
        f"x{name}={value}",
        "",
        f"{name}=",
        f"{name}={value}0",
    ):
        assert guard.cookie(head(cookie=wrong), name) == ""
    assert guard.cookie(head(), name) == ""
    assert name != guard.cookie_name("ams"), "edges of one host do not log one another out"


def test_no_script_reads_the_cookie_and_no_other_site_sends_it():
    _, value = guard.set_cookie(guard.cookie_name("fra"), "0" * 64, 60)
    name, *flags = value.split("; ")
    assert name.startswith("__Host-")
    assert {"HttpOnly", "Secure", "SameSite=Strict", "Path=/", "Max-Age=60"} == set(flags)
