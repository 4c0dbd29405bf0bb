"""The guess of what comes next is what followed the longest tail's last place, as a plain search finds it."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference.engine.steps.lookup import LONGEST, MOST_BETWEEN, WINDOW_TOKENS, Lookup
from tests.evidence import count

TOKENS = st.sampled_from([0, 1, 2, 256, 257, 0x01010101, 0x00010000])
"""Some whose bytes are found between others' too."""


def plain(text, most):
    """By comparing lists at each place, the last first."""
    length, end = 0, len(text)
    for num in range(1, min(LONGEST, len(text) - 1) + 1):
        places = [at for at in range(num, len(text)) if text[at - num : at] == text[-num:]]
        if not places:
            break
        length, end = num, places[-1]
    if not length:
        return 0, ()
    found = [*text]
    for place in range(most):
        found.append(found[end + place])
    return length, tuple(found[len(text) :])


@settings(max_examples=count(100, 20_000), deadline=None)
@given(st.lists(TOKENS, max_size=40), st.integers(1, 8), st.integers(0, 40))
@example([5] * 4, 8, 0)
@example([1, 2, 3, 1, 2], 8, 2)
def test_it_is_what_a_plain_search_finds(text, most, cut):
    lookup = Lookup(text[:cut])
    lookup.extend(text[cut:])
    found = lookup.guess(most)
    assert found in {plain(text, most), (0, ())} or text.count(0x01010101) >= MOST_BETWEEN
    if not {0, 1, 0x01010101} & {*text}:
        assert found == plain(text, most)


def test_a_long_text_is_searched_back_to_its_window():
    lookup = Lookup([7, 8, 9])
    for start in range(0, 3 * WINDOW_TOKENS, 1000):
        lookup.extend(range(100_000 + start, 101_000 + start))
    lookup.extend([100_000 + 3 * WINDOW_TOKENS - 1000])
    assert lookup.guess(2)[1] == (100_000 + 3 * WINDOW_TOKENS - 999, 100_000 + 3 * WINDOW_TOKENS - 998)
    lookup.extend([7])
    assert lookup.guess(2) == (0, ())
