"""Turns before the template: bounded, fair, and nobody waits who could go in, whoever comes, leaves or gives up."""

import random
from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inference.engine.steps.crowd import FAR
from inference.workers.entry.turnstile import CROWD_S, LEAST_BESIDE, LINGER_S, WAITING_BESIDE, Turnstile
from tests.evidence import count

TENANTS = st.sampled_from(["ada", "bob", "cem"])


class Room(RuleBasedStateMachine):
    """Guests come, leave and give up in any order."""

    def __init__(self):
        super().__init__()
        self.now, self.guests = 0.0, []

    @rule(places=st.integers(1, 6), shy=st.booleans(), strict=st.booleans(), most=st.sampled_from([5, 30]))
    @precondition(lambda self: not self.guests and not hasattr(self, "one"))
    def begin(self, places, shy, strict, most):
        self.one, self.most = Turnstile(places, is_shy=shy, is_strict=strict, max_waiting=most), most

    @precondition(lambda self: hasattr(self, "one"))
    @rule(
        tenant=TENANTS, weight=st.integers(1, 3), priority=st.integers(0, 2), size=st.integers(1, 3),
        times=st.integers(1, 8), after=st.sampled_from([0.0, 0.1, 2 * LINGER_S]),
    )  # fmt: skip
    def come(self, tenant, weight, priority, size, times, after):
        self.now += after
        if self.one.is_strict:
            size = 1
        for _ in range(times):
            guest, unlucky, admitted = self.one.come(
                tenant, self.now, weight=weight, priority=priority, size=size
            )
            self.guests.append(guest)
            assert all(each.is_inside and each in self.guests for each in admitted)
            if unlucky is not None:
                assert not unlucky.is_inside
                self.guests.remove(unlucky)

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), after=st.sampled_from([0.0, 0.1, 2 * LINGER_S]))
    def leave(self, data, after):
        self.now += after
        guest = data.draw(st.sampled_from(self.guests))
        waited = {each for each in self.guests if not each.is_inside}
        self.guests.remove(guest)
        admitted = self.one.leave(guest, self.now)
        assert all(each.is_inside and each in waited and each is not guest for each in admitted)
        assert self.one.leave(guest, self.now) == [], "it is gone: leaving again changes nothing"

    @invariant()
    def nothing_is_lost(self):
        if not hasattr(self, "one"):
            return
        self.one.check()
        inside = [guest for guest in self.guests if guest.is_inside]
        assert self.one.num_inside == sum(guest.size for guest in inside)
        assert self.one.num_waiting == len(self.guests) - len(inside) <= self.most
        assert not self.one.is_strict or len(inside) <= self.one.places
        assert set(self.one.waiting) == set(self.guests) - set(inside)

    def teardown(self):
        """Whatever happened, everybody gets in once those inside leave."""
        while self.guests:
            guest = next(each for each in self.guests if each.is_inside)
            self.guests.remove(guest)
            self.one.leave(guest, self.now)
            self.nothing_is_lost()


TestRoom = Room.TestCase
TestRoom.settings = settings(max_examples=count(20, 1_000), stateful_step_count=40, deadline=None)


class Node:
    """A turnstile whose guests stay for a while each: the longest there leaves at each tick, if it is due."""

    def __init__(self, places, **more):
        self.one, self.now, self.served = Turnstile(places, **more), 0.0, Counter()
        self.inside = deque()

    def come(self, tenant, times=1, **more):
        guest, unlucky = None, None
        for _ in range(times):
            guest, unlucky, admitted = self.one.come(tenant, self.now, **more)
            self.inside.extend(admitted or ([guest] if guest.is_inside else []))
        return guest, unlucky

    def tick(self, seconds=0.01):
        self.now += seconds
        if self.inside:
            guest = self.inside.popleft()
            self.served[guest.party.name] += 1
            self.inside.extend(self.one.leave(guest, self.now))

    def held(self):
        return Counter(guest.party.name for guest in self.inside)


def test_who_is_alone_has_every_place_and_never_waits_for_one_that_is_free() -> None:
    node = Node(8)
    node.come("hog", 8)

    assert (node.one.num_inside, node.one.num_waiting) == (8, 0)
    node.come("hog", 3)
    assert (node.one.num_inside, node.one.num_waiting) == (8, 3)
    node.tick()
    assert (node.one.num_inside, node.one.num_waiting) == (8, 2)


def test_an_engine_that_says_no_bound_has_none() -> None:
    node = Node(0)
    node.come("hog", 1_000)

    assert (node.one.num_inside, node.one.num_waiting) == (1_000, 0)


def test_who_has_less_than_its_share_goes_in_at_once_whoever_fills_the_places() -> None:
    node = Node(8)
    node.come("hog", 100)

    guest, _ = node.come("ada")
    assert guest.is_inside
    node.come("ada", 3)
    assert node.held()["ada"] == 4
    guest, _ = node.come("ada")
    assert not guest.is_inside, "half of eight is its share"


def test_a_crowd_beside_others_has_as_many_as_the_fullest_and_a_few_at_least() -> None:
    node = Node(64)
    node.come("hog", 200)
    node.come("ada")
    for _ in range(200):
        node.tick()
        node.come("hog")
        if not node.held()["ada"]:
            node.come("ada")

    assert node.held()["hog"] == LEAST_BESIDE
    node.come("ada", 6)
    node.tick(0.0)
    assert node.held()["hog"] <= 7


def until_turned_away(node, tenant, **more):
    """How many came before."""
    num = 0
    while node.come(tenant, **more)[1] is None:
        num += 1
    return num


@pytest.mark.parametrize("weight", [1, 2])
def test_of_a_crowd_beside_others_few_wait_and_the_rest_come_back_later(weight: int) -> None:
    node, most = Node(64), LEAST_BESIDE * weight
    node.come("ada")
    num = until_turned_away(node, "hog", weight=weight)

    assert node.one.num_waiting == WAITING_BESIDE * most
    assert num - node.one.num_waiting <= most + 1, "it is a crowd from its next one on"
    urgent, unlucky = node.come("hog", weight=weight, priority=-1)
    assert unlucky is None
    assert urgent.is_inside, "who is less urgent does not count against it"


def test_who_is_alone_may_fill_the_queue() -> None:
    node = Node(4, max_waiting=100)
    _, unlucky = node.come("hog", 104)

    assert unlucky is None
    assert node.one.num_waiting == 100
    node.come("ada")
    _, unlucky = node.come("hog")
    assert unlucky is not None, "and who waited already still does"
    assert node.one.num_waiting == 100


def test_a_crowd_that_was_turned_away_stays_one_though_few_of_it_are_here() -> None:
    node = Node(64)
    node.come("ada")
    until_turned_away(node, "hog")
    many = 3 * LEAST_BESIDE
    node.come("ada", many - 1)
    assert sum(party.num_requests for party in node.one.here if party.name == "hog") < FAR * many

    assert node.held()["hog"] <= many, "though it has not FAR times as many here"
    node.tick(CROWD_S)
    node.come("ada", 2)
    assert node.one.num_waiting == 0, "it has come back with no more since"


def test_an_engine_that_can_hold_no_more_holds_no_more_and_takes_turns() -> None:
    node = Node(4, is_strict=True)
    node.come("hog", 20)
    ada, _ = node.come("ada")
    assert (node.one.num_inside, ada.is_inside) == (4, False)

    node.tick()
    assert ada.is_inside, "the first place is hers"
    assert node.one.num_inside == 4


def test_one_place_goes_from_tenant_to_tenant() -> None:
    node = Node(1, is_strict=True)
    node.come("hog", 10)
    node.come("ada", 2)
    turns = []
    while node.inside:
        turns.append(node.inside[0].party.name)
        node.tick()

    assert turns == ["hog", "ada", "hog", "ada", *["hog"] * 8]


def test_an_engine_that_shares_no_cores_holds_no_crowd_back() -> None:
    node = Node(64, is_shy=False)
    node.come("hog", 200)
    node.come("ada")
    for _ in range(100):
        node.tick()
        node.come("hog")

    assert len(node.inside) >= 64


def test_a_tenant_that_pauses_is_here_in_between_and_gone_after_a_while() -> None:
    node = Node(16)
    node.come("hog", 100)
    guest, _ = node.come("ada")
    while node.held()["hog"] > LEAST_BESIDE or guest in node.inside:
        node.tick()
    node.tick()

    assert node.held() == {"hog": LEAST_BESIDE}, "ada has just left"
    node.tick(2 * LINGER_S)
    assert node.held() == {"hog": 16}


def test_a_full_queue_turns_away_the_last_of_who_has_most_there() -> None:
    node = Node(2, max_waiting=10)
    node.come("hog", 10)
    node.come("ada", 3)
    _, unlucky = node.come("ada")

    assert unlucky is not None
    assert unlucky.party.name == "hog"
    assert node.one.num_waiting == 10
    assert node.one.wait_s() >= 1.0
    _, unlucky = node.come("hog")
    assert unlucky is not None
    assert unlucky.party.name == "hog"


def test_the_more_urgent_go_past_their_own_tenants_less_urgent_only() -> None:
    node = Node(4)
    node.come("ada", 8, priority=9)
    urgent, _ = node.come("ada")
    other, _ = node.come("bob", priority=9)

    assert urgent.is_inside, "the engine takes a slot for it from one of the others"
    assert other.is_inside, "its share"
    later, _ = node.come("ada", priority=9)
    assert not later.is_inside


def test_weights_share_out_places() -> None:
    node = Node(12)
    node.come("ada", 60)
    node.come("bob", 60, weight=3)
    for _ in range(120):
        node.tick()
        for name, weight in (("ada", 1), ("bob", 3)):
            node.come(name, weight=weight)

    assert node.held()["bob"] / node.held()["ada"] == pytest.approx(3, abs=0.8)


@settings(max_examples=count(12, 500), deadline=None)
@given(seed=st.integers(0, 2**32), places=st.integers(2, 16), others=st.integers(1, 4))
def test_nobody_starves_beside_a_tenant_that_never_stops(seed: int, places: int, others: int) -> None:
    """Each of the others asks now and then, fewer times than its share could bear, and waits for nothing."""
    draws, node = random.Random(seed), Node(places)
    names = [f"t{number}" for number in range(others)]
    for _ in range(300):
        node.come("hog", draws.randint(0, 3))
        for name in names:
            if draws.random() < 0.3 and not node.held()[name]:
                guest, unlucky = node.come(name)
                assert guest.is_inside
                assert unlucky is None
        node.tick()
        node.one.check()
        if any(node.held()[name] for name in names) and node.held()["hog"] > places:
            assert node.one.num_inside <= places + others * FAR

    assert node.served["hog"] > 0, "and it is served too"
