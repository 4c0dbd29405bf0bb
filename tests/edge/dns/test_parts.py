"""The parts of the name server by themselves: rate, round trips, steering, presence, messages; time is an argument."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.dns import challenge, report
from edge.dns.client import of_host
from edge.dns.presence import Presence
from edge.dns.rate import ResponseRate
from edge.dns.report import SILENT_S, Observed, Report
from edge.dns.rtt import MAX_AGE_S, RttTable
from edge.dns.sealed import MAX_BYTES, MAX_SKEW_NS, Kind, Opener, Sealed, SealError, seal
from edge.dns.settings import Pop
from edge.dns.steer import EXPLORE_EVERY, Steering
from tests.edge.dns.zones import FRA, IAD, NRT, POPS, ask, responder

CLIENT = of_host("203.0.113.9")
KEY = b"k" * 32


def test_a_network_gets_its_share_of_answers_then_hints_that_tcp_is_open():
    """Nobody else is limited, and a second later there is a share again."""
    rate = ResponseRate(10.0)
    verdicts = [rate.take(CLIENT, 100.0) for _ in range(60)]

    assert verdicts[:20] == [True] * 20  # two seconds' worth at once
    assert sorted(map(str, verdicts[20:])) == ["False"] * 20 + ["None"] * 20
    assert rate.take(of_host("203.0.114.9"), 100.0)
    assert [rate.take(CLIENT, 101.0) for _ in range(12)].count(True) == 10


def test_a_flood_of_forged_networks_takes_no_more_memory():
    rate = ResponseRate(10.0, max_clients=100)
    for number in range(5_000):
        rate.take(number.to_bytes(3) + b"\x18", 0.0)

    assert len(rate) <= 200


def test_a_limited_client_is_told_no_more_than_it_asked(monkeypatch):
    server, _ = responder(rate_per_s=1.0)
    answers = [
        server.datagram(b"\1\2\0\0\0\1\0\0\0\0\0\0\3api\2nf\7example\0\0\1\0\1", "192.0.2.9", 5.0)
        for _ in range(20)
    ]
    limited = answers[2:]

    assert any(limited)
    assert all(len(answer) <= 32 for answer in limited)
    assert all(answer[2] & 2 for answer in limited if answer)


def test_round_trips_are_averaged_bounded_and_forgotten():
    table = RttTable(max_clients=3)
    table.note(CLIENT, IAD, 100.0, 0.0)
    table.note(CLIENT, IAD, 50.0, 1.0)
    assert 50.0 < table.of(CLIENT, 1.0)[IAD] < 100.0
    assert not table.of(CLIENT, 2.0 + MAX_AGE_S)

    for number in range(9):
        table.note(bytes([number, 0, 0, 24]), FRA, 1.0, 2.0)
    assert len(table) == 3
    table.age(3.0 + MAX_AGE_S)
    assert len(table) == 0


def steering() -> Steering:
    return Steering(POPS, RttTable(), 20.0)


def test_the_measured_nearest_goes_first():
    server, steered = responder()
    for pop, rtt in ((FRA, 90.0), (IAD, 160.0), (NRT, 12.0)):
        steered.note(of_host("10.2.1.1"), pop, rtt)

    assert ask(server, "api.nf.example", host="10.2.1.1").answer[0][0].address == "192.0.2.3"
    assert ask(server, "api.nf.example", host="10.2.7.1").answer[0][0].address == "192.0.2.1"


def test_noise_moves_nobody():
    steered = steering()
    for number in range(100):
        steered.note(CLIENT, FRA, 10.0 + number % 4)
        steered.note(CLIENT, IAD, 10.0 + (number + 2) % 4)
        assert steered.ranking(CLIENT)[0] == FRA


def test_the_operators_nearest_goes_before_what_was_measured_slow():
    """A client that landed far while its POP was drained comes back."""
    steered, client = steering(), of_host("10.2.2.1")
    steered.note(client, NRT, 150.0)
    assert steered.ranking(client)[0] == IAD
    for _ in range(20):
        steered.note(client, NRT, 5.0)
    assert steered.ranking(client)[0] == NRT


def test_who_is_far_from_all_that_was_measured_tries_another_now_and_then():
    steered = steering()
    steered.note(CLIENT, FRA, 80.0)
    firsts = []
    for period in range(4 * EXPLORE_EVERY):
        steered.tick(period * 20.0)
        firsts.append(steered.ranking(CLIENT)[0])

    assert firsts.count(IAD) == 4
    assert firsts.count(FRA) == 4 * EXPLORE_EVERY - 4


def test_a_table_that_contradicts_itself_is_refused():
    twice = (*POPS, Pop("x", POPS[1].addresses, near=POPS[0].near))
    with pytest.raises(ValueError, match="near both"):
        Steering(twice, RttTable(), 20.0)
    with pytest.raises(ValueError, match="is not a POP"):
        Steering((POPS[0],), RttTable(), 20.0)


def test_silence_and_draining_take_a_pop_away():
    presence = Presence(3, 0.0, told=True)
    assert presence.up(1.0) == {0, 1, 2}  # nobody had the time to speak
    for now in range(20):
        presence.heard(0, float(now), draining=False)
        presence.heard(1, float(now), draining=now > 15)
    assert presence.up(20.0) == {0}
    assert presence.up(19.0 + SILENT_S) == set()
    assert Presence(3, 0.0, told=False).up(1e9) == {0, 1, 2}


def sealed(payload: bytes = b"\0", kind: Kind = Kind.REPORT, at: int = 10**18, key: bytes = KEY) -> bytes:
    return seal(Sealed(kind, "fra", payload), at, key)


def test_a_message_is_believed_once():
    opener, datagram = Opener(KEY), sealed()
    assert opener.open(datagram, 10**18) == (Kind.REPORT, "fra", b"\0")
    with pytest.raises(SealError, match="before"):
        opener.open(datagram, 10**18)
    with pytest.raises(SealError, match="before"):
        opener.open(sealed(at=10**18 - 1), 10**18)
    assert opener.open(sealed(at=10**18 + 1), 10**18)


@pytest.mark.parametrize("skew", [MAX_SKEW_NS + 1, -MAX_SKEW_NS - 1])
def test_a_message_of_another_time_is_not_believed(skew):
    with pytest.raises(SealError, match="clock"):
        Opener(KEY).open(sealed(at=10**18 + skew), 10**18)


@given(st.data())
def test_a_changed_message_is_not_believed(data):
    datagram = bytearray(sealed(b"\0" * 20))
    datagram[data.draw(st.integers(0, len(datagram) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealError):
        Opener(KEY).open(bytes(datagram), 10**18)
    with pytest.raises(SealError):
        Opener(KEY).open(sealed(key=b"x" * 32), 10**18)
    with pytest.raises(SealError):
        Opener(KEY).open(data.draw(st.binary(max_size=64)), 10**18)


def test_reports_keep_the_shortest_round_trip_and_fit_in_datagrams():
    observed = Observed()
    for number in range(10_000):
        observed.note(of_host(f"2001:db8:{number:x}::1"), 20_000)
        observed.note(CLIENT, 5_000 + number)
    reports = observed.reports(draining=True)

    assert len(reports) == 8
    assert min(rtt for each in reports for _, rtt in each.rtt_us) == 5_000
    for each in reports:
        payload = report.encode(each)
        assert len(seal(Sealed(Kind.REPORT, "f" * 63, payload), 1, KEY)) <= MAX_BYTES
        assert report.decode(payload) == Report(True, list(each.rtt_us))
    assert observed.reports(draining=False) == [Report(False, [])]


@given(st.binary(max_size=60))
def test_any_payload_is_read_or_refused(payload):
    for decode in (report.decode, challenge.decode):
        try:
            decode(payload)
        except ValueError:
            continue


def test_challenges_stand_until_they_are_taken_away_or_run_out():
    table = challenge.Challenges()
    one = challenge.Challenge("_acme-challenge.nf.example", ("a", "b"), 60)
    assert challenge.decode(challenge.encode(one)) == one
    assert table.take(one, 0.0)
    assert not table.take(one, 1.0)
    assert table.values(2.0) == {one.name: ("a", "b")}
    assert not table.expire(60.0)
    assert table.expire(61.0)
    assert table.take(one, 62.0)
    assert table.take(one._replace(values=()), 63.0)
    for number in range(challenge.MAX_NAMES):
        table.take(one._replace(name=f"{number}"), 64.0)
    with pytest.raises(ValueError, match="at once"):
        table.take(one, 64.0)
    for bad in (("with space",), ('quo"te',), ("",), ("v",) * 9):
        with pytest.raises(ValueError):
            challenge.decode(challenge.encode(one._replace(values=bad)))
    with pytest.raises(ValueError):
        challenge.decode(challenge.encode(one._replace(name="www.nf.example")))
