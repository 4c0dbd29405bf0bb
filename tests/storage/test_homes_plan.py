"""Which bytes of an object are here, who wants which, and what is fetched next: against plain sets of bytes."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from storage.homes.partial import Piece, read_sums
from storage.homes.plan import Plan
from storage.homes.spans import Spans
from tests.evidence import count

SIZE = 60
BYTES = st.integers(0, SIZE)
SPAN = st.tuples(BYTES, BYTES).map(lambda pair: tuple(sorted(pair)))


@given(st.lists(SPAN, max_size=20))
def test_spans_are_a_set_of_bytes(added):
    spans, model = Spans(), set()
    for start, end in added:
        spans.add(start, end)
        model |= set(range(start, end))

    assert {at for start, end in spans for at in range(start, end)} == model
    assert spans.num_bytes == len(model)
    ranges = list(spans)
    assert all(end < start for (_, end), (start, _) in pairwise(ranges)), "joined"
    for at in range(SIZE + 1):
        end = spans.end_of(at)
        assert set(range(at, end)) <= model
        assert end not in model
        assert spans.next_after(at) == min((start for start, _ in ranges if start > at), default=None)


class Fetching(RuleBasedStateMachine):
    """Readers come, read and go; claims land, break and end, in any order."""

    def __init__(self):
        super().__init__()
        self.plan = Plan(SIZE, Spans(), max_claims=3, claim_bytes=13)
        self.readers = {}
        self.claims = {}
        self.here = set()

    @rule(span=SPAN.filter(lambda pair: pair[0] < pair[1]))
    def come(self, span):
        self.readers[self.plan.want(*span)] = span

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def read(self, data):
        number = data.draw(st.sampled_from(sorted(self.readers)))
        at, end = self.readers[number]
        there = min(self.plan.covered.end_of(at), end)
        assert set(range(at, there)) <= self.here
        self.plan.moved(number, there)
        self.readers[number] = (there, end)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data):
        number = data.draw(st.sampled_from(sorted(self.readers)))
        self.plan.leave(number)
        del self.readers[number]

    @rule()
    def claim(self):
        waiting = {number for number, (at, end) in self.readers.items() if at < end and at not in self.here}
        coming = {at for start, end in self.claims.values() for at in range(start, end)}
        claim = self.plan.claim()
        if claim is None:
            wanted = {at for start, end in self.readers.values() for at in range(start, end)}
            assert len(self.claims) == 3 or not wanted - self.here - coming
            return
        span = set(range(claim.start, claim.end))
        assert span
        assert not span & (self.here | coming), "a byte is fetched once"
        assert any(at <= claim.start < end for at, end in self.readers.values()), "somebody wants it"
        blocked = {self.readers[each][0] for each in waiting} - coming
        assert not blocked or claim.start in blocked, "who waits comes first"
        self.claims[claim.number] = (claim.start, claim.end)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def land(self, data):
        number = data.draw(st.sampled_from(sorted(self.claims)))
        start, end = self.claims[number]
        num_bytes = data.draw(st.integers(0, end - start))
        self.plan.landed(number, num_bytes)
        self.here |= set(range(start, start + num_bytes))
        self.claims[number] = (start + num_bytes, end)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def end(self, data):
        number = data.draw(st.sampled_from(sorted(self.claims)))
        start, end = self.claims.pop(number)
        assert self.plan.ended(number) == end - start

    @invariant()
    def nobody_is_forgotten(self):
        wanted = {at for start, end in self.readers.values() for at in range(start, end)}
        unwanted = {n for n, (start, end) in self.claims.items() if not wanted & set(range(start, end))}
        assert set(self.plan.unwanted()) == unwanted
        assert self.plan.is_whole == (len(self.here) == SIZE)


TestFetching = Fetching.TestCase
TestFetching.settings = settings(max_examples=count(20, 2000), stateful_step_count=40, deadline=None)


NUMBER = st.integers(0, 40) | st.integers(0, 2**64 - 1)
LINES = st.lists(NUMBER.map(lambda number: number.to_bytes(8, "big")), max_size=30).map(b"".join)


@given(LINES, st.binary(max_size=30), st.integers(0, 60))
def test_any_file_of_sums_gives_pieces_that_can_be(lines, rest, size):
    pieces = read_sums(lines + rest, size)

    assert all(piece.length and piece.end <= size for piece in pieces)
    assert all(one.end <= two.start for one, two in pairwise(pieces))


def test_a_line_that_was_cut_is_left_out():
    lines = b"".join(n.to_bytes(8, "big") for n in (0, 10, 1, 10, 5, 2))

    assert read_sums(lines[:-1], 100) == [Piece(0, 10, 1)]
    assert read_sums(lines, 100) == [Piece(0, 10, 1), Piece(10, 5, 2)]
    assert read_sums(lines, 12) == [Piece(0, 10, 1)]
