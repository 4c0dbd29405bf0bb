"""Where a text ends at a stop string depends on its characters only, never on how they arrive."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.api.answer.choice import Choice, Delta, Reading, TokenScore, make_choice
from inference.api.request.sampling import Sampling
from inference.api.text.stops import StopGate
from inference.api.text.tokens import Vocabulary
from tests.evidence import count
from tests.inference.tokenizers_made import byte_level

ALPHABET = "ab\n"
texts = st.text(ALPHABET, max_size=30)
stops = st.lists(st.text(ALPHABET, min_size=1, max_size=5), max_size=4).map(tuple)


def by_definition(text: str, stops: tuple[str, ...], *, include: bool = False) -> tuple[str, str | None]:
    """Character by character: the first stop string to be complete, the longest of those."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


def through(gate: StopGate, text: str, cuts: list[int]) -> list[str]:
    points = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    parts = [text[start:end] for start, end in pairwise(points)]
    return [*map(gate.receive, parts), gate.finish()]


@settings(max_examples=count(40, 400), deadline=None)
@given(text=texts, stops=stops, cuts=st.lists(st.integers(0, 30), max_size=12), include=st.booleans())
def test_any_chunking_gives_what_the_definition_says(
    text: str, stops: tuple[str, ...], cuts: list[int], include: bool
) -> None:
    gate = StopGate(stops, include=include)
    shown = through(gate, text, cuts)
    wanted, hit = by_definition(text, stops, include=include)

    assert "".join(shown) == wanted
    assert gate.hit == hit


@settings(max_examples=count(30, 200), deadline=None)
@given(text=texts, stops=stops)
def test_nothing_of_a_stop_string_leaks_before_it_is_complete(text: str, stops: tuple[str, ...]) -> None:
    """After every character, what was shown begins the final text, and no more is held than a stop could need."""
    gate = StopGate(stops)
    final, _ = by_definition(text, stops)
    most_held = max(map(len, stops), default=1) - 1
    shown = ""
    for num_seen, character in enumerate(text, 1):
        shown += gate.receive(character)
        assert final.startswith(shown)
        assert len(shown) >= min(len(final), num_seen - most_held)


def test_nothing_comes_out_after_the_stop() -> None:
    gate = StopGate(("END",))

    assert gate.receive("an END here") == "an "
    assert gate.receive("more") == ""
    assert gate.finish() == ""


def test_text_that_only_looked_like_a_stop_is_shown() -> None:
    gate = StopGate(("\n\nUser:",))

    assert gate.receive("hi\n\nUs") == "hi"
    assert gate.receive("ually") == "\n\nUsually"
    assert gate.receive("\n") == ""
    assert gate.finish() == "\n"


VOCABULARY = Vocabulary.from_bytes(byte_level())
END = VOCABULARY.token_of("<|end|>") or 0


def choice_of(sampling: Sampling) -> Choice:
    return make_choice(VOCABULARY, sampling, (END,), follows_text=False)


def score(token: int) -> TokenScore:
    return TokenScore(token, -0.5, ((token, -0.5),), 0)


def run(choice: Choice, tokens: list[int], sizes: list[int], finish: str) -> list[Delta]:
    """Tokens in frames of these sizes, as the engine sends them, until the choice has enough."""
    deltas, sizes = [], list(sizes)
    while tokens and choice.finish is None:
        size = (sizes.pop() if sizes else 1) or 1
        frame, tokens = tokens[:size], tokens[size:]
        deltas.append(choice.receive(frame, [score(token) for token in frame]))
    return [*deltas, choice.end(finish)]


@settings(max_examples=count(30, 200), deadline=None)
@given(
    text=st.text("abc d😀é", max_size=25),
    stops=st.lists(st.text("abc d😀", min_size=1, max_size=4), max_size=4).map(tuple),
    sizes=st.lists(st.integers(1, 6), max_size=8),
)
def test_a_choice_is_the_same_in_any_frames(text: str, stops: tuple[str, ...], sizes: list[int]) -> None:
    """Concatenated deltas equal the answer that was not streamed: text, scores, count and finish."""
    tokens = VOCABULARY.encode(text, add_special=False)
    whole, streamed = choice_of(Sampling(stop=stops)), choice_of(Sampling(stop=stops))
    at_once = run(whole, tokens, [len(tokens)], "length")
    in_parts = run(streamed, tokens, sizes, "length")
    wanted, hit = by_definition(text, stops)

    assert "".join(delta.text for delta in in_parts) == "".join(delta.text for delta in at_once) == wanted
    assert streamed.finish == whole.finish == ("stop" if hit else "length")
    assert streamed.num_tokens == whole.num_tokens <= len(tokens)
    assert [s for d in in_parts for s in d.scores] == [s for d in at_once for s in d.scores]


def test_the_count_ends_with_the_token_that_completed_the_stop() -> None:
    tokens = VOCABULARY.encode("one two three four", add_special=False)
    choice = choice_of(Sampling(stop=("two",)))
    choice.receive(tokens)
    num_until_two = next(n for n in range(len(tokens)) if "two" in VOCABULARY.decode(tokens[:n]))

    assert choice.num_tokens == num_until_two
    assert choice.finish == "stop"


def test_scores_of_cut_text_are_not_shown() -> None:
    """A token whose text is cut in its middle is shown, one that begins after the cut is not."""
    tokens = VOCABULARY.encode("abc", add_special=False)
    choice = choice_of(Sampling(stop=("b",)))
    deltas = run(choice, [*tokens, *VOCABULARY.encode("zzz", add_special=False)], [], "length")
    shown = [s.token for delta in deltas for s in delta.scores]

    assert "".join(delta.text for delta in deltas) == "a"
    assert shown == tokens[: len(shown)]
    assert len(shown) >= 1


class Letters:
    """A stream whose tokens are the characters themselves."""

    def receive(self, token: int) -> str:
        return chr(token)

    def finish(self) -> str:
        return ""


def test_scores_come_with_their_text_and_not_before_it_is_certain() -> None:
    choice = Choice(Letters(), Sampling(stop=("bc",)), frozenset())
    deltas = [choice.receive([ord(one)], [TokenScore(ord(one), -1.0, (), 0)]) for one in "abxbc"]

    assert [delta.text for delta in deltas] == ["a", "", "bx", "", ""]
    assert [[chr(score.token) for score in delta.scores] for delta in deltas] == [
        ["a"],
        [],
        ["b", "x"],
        [],
        [],
    ]
    assert [score.offset for delta in deltas for score in delta.scores] == [0, 1, 2]


def test_thoughts_that_an_answer_ends_in_are_told_to_their_last_character() -> None:
    choice = Choice(Letters(), Sampling(), frozenset(), Reading(None, thinks=True, thinking=True).reader())
    deltas = [choice.receive(list(map(ord, "why </thi"))), choice.end("length", 9)]

    assert "".join(delta.thoughts for delta in deltas) == "why </thi"
    assert (choice.finish, "".join(delta.text for delta in deltas)) == ("length", "")


def test_an_end_token_is_counted_and_is_no_text_even_when_special_tokens_are_kept() -> None:
    choice = choice_of(Sampling(keep_special=True))
    delta = choice.receive([*VOCABULARY.encode("hi", add_special=False), END])

    assert delta.text == "hi"
    assert choice.num_tokens == len(VOCABULARY.encode("hi", add_special=False)) + 1


def test_an_ignored_end_token_goes_on() -> None:
    choice = choice_of(Sampling(ignore_eos=True, keep_special=True))

    assert choice.receive([END]).text == "<|end|>"
