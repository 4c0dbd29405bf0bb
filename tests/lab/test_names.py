"""Names lead to the nearest POP that is up: A12 of research/edge.md, with our own name server."""

import asyncio
import time

import dns.edns
import dns.message
import dns.query
import pytest

from tests.lab.network import PLACES, by_rtt, client_net, pop_address, until
from tests.lab.world import HOME, TTL_S

pytestmark = pytest.mark.lab

STREAM = "stream.lab."


def asked(lab, place, kind, of=None):
    """The answer to a resolver in `place` that shows the network of clients in `of`; and its scope, if it has one."""
    shown = None if of is None else [dns.edns.ECSOption(client_net(of).partition("/")[0], 24)]
    question = dns.message.make_query(STREAM, kind, use_edns=0, options=shown or [])

    async def ask():
        server = pop_address(HOME)
        return await asyncio.to_thread(dns.query.udp, question, server, timeout=5)

    answer = lab.clients[place].do(ask())
    scopes = [option.scopelen for option in answer.options if isinstance(option, dns.edns.ECSOption)]
    return [record for rrset in answer.answer for record in rrset], (scopes or [None])[0]


def test_a12_a_name_leads_to_the_nearest_pop_that_is_up(at_rest, figures):
    """Whoever asks for whom; and once a POP drains, to the next one before the answer's time is over."""
    lab = at_rest
    right = 0
    for resolver in PLACES:
        for client in PLACES:
            found, scope = asked(lab, resolver, "A", of=client)
            right += [each.address for each in found] == [pop_address(client)] and scope == 24
    targets = [each for each in asked(lab, "eu", "HTTPS", of="ap")[0] if each.priority]
    first = min(targets, key=lambda each: each.priority)
    drained = lab.folder / "drain-eu"
    at = time.monotonic()
    drained.touch()
    try:
        until(
            lambda: [each.address for each in asked(lab, "ap", "A", of="eu")[0]] == [pop_address("us")],
            30,
            "moved",
        )
        moved_s = time.monotonic() - at
    finally:
        drained.unlink()
    until(
        lambda: [each.address for each in asked(lab, "ap", "A", of="eu")[0]] == [pop_address("eu")],
        30,
        "back",
    )
    figures("A12", "names lead to the nearest POP", right=right, of=9, drained_after_s=moved_s, ttl_s=TTL_S)

    assert right == 9
    assert by_rtt("eu")[1] == "us"
    assert str(first.target) == "ap.api.lab."
    assert len(targets) == 3
    assert moved_s <= TTL_S + 1.0  # of an answer that was made just before, and a step of the POP's reports
