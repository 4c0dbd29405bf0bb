"""What tinychat learns: every fact, every way to ask for it, and the one right answer."""

import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

FOLDER = Path(__file__).parent
LARGEST_TERM = 99  # sums and differences of numbers of at most two digits
LARGEST_FACTOR = 12  # the tables that children learn
CASUAL_SHARE = 0.2  # of the questions in training: no capitals, no full stop, as people type

SUM_FORMS = (
    "What is {a} + {b}?",
    "{a} + {b}",
    "{a}+{b}",
    "{a} + {b} =",
    "What is {a} plus {b}?",
    "Add {a} and {b}.",
    "Calculate {a} + {b}.",
    "How much is {a} + {b}?",
)
DIFFERENCE_FORMS = (
    "What is {a} - {b}?",
    "{a} - {b}",
    "{a}-{b}",
    "{a} - {b} =",
    "What is {a} minus {b}?",
    "Subtract {b} from {a}.",
    "Calculate {a} - {b}.",
    "How much is {a} - {b}?",
)
PRODUCT_FORMS = (
    "What is {a} x {b}?",
    "{a} x {b}",
    "{a} * {b}",
    "{a} x {b} =",
    "What is {a} times {b}?",
    "Multiply {a} by {b}.",
    "What is {a} * {b}?",
    "How much is {a} x {b}?",
)
CAPITAL_FORMS = (
    "What is the capital of {country}?",
    "What's the capital of {country}?",
    "Capital of {country}?",
    "Tell me the capital of {country}.",
    "Which city is the capital of {country}?",
    "Name the capital of {country}.",
)
COUNTRY_FORMS = (
    "Which country has the capital {capital}?",
    "{capital} is the capital of which country?",
    "What country is {capital} the capital of?",
)
WITH_ARTICLE = frozenset({"United Kingdom", "United States"})


@dataclass(frozen=True, slots=True)
class Lesson:
    """One fact: ``group`` it is counted under, ``questions`` that ask for it, the exact ``answer``."""

    group: str
    questions: tuple[str, ...]
    answer: str


def _sums() -> Iterator[Lesson]:
    for a, b in product(range(LARGEST_TERM + 1), repeat=2):
        yield Lesson("addition", tuple(f.format(a=a, b=b) for f in SUM_FORMS), f"{a} + {b} = {a + b}.")
        if a >= b:
            asked = tuple(f.format(a=a, b=b) for f in DIFFERENCE_FORMS)
            yield Lesson("subtraction", asked, f"{a} - {b} = {a - b}.")


def _products() -> Iterator[Lesson]:
    for a, b in product(range(LARGEST_FACTOR + 1), repeat=2):
        asked = tuple(f.format(a=a, b=b) for f in PRODUCT_FORMS)
        yield Lesson("multiplication", asked, f"{a} x {b} = {a * b}.")


def _capitals() -> Iterator[Lesson]:
    for line in (FOLDER / "capitals.txt").read_text(encoding="utf-8").splitlines():
        name, capital = line.split(": ")
        country = f"the {name}" if name in WITH_ARTICLE else name
        forward = tuple(f.format(country=country) for f in CAPITAL_FORMS)
        yield Lesson("capitals", forward, f"The capital of {country} is {capital}.")
        backward = tuple(f.format(capital=capital) for f in COUNTRY_FORMS)
        yield Lesson("countries", backward, f"{capital} is the capital of {country}.")


def _written(file: str) -> Iterator[Lesson]:
    tables = tomllib.loads((FOLDER / file).read_text(encoding="utf-8"))
    for group, entries in tables.items():
        for entry in entries:
            yield Lesson(
                "nearfield" if group == "lesson" else group, tuple(entry["questions"]), entry["answer"]
            )


def lessons() -> tuple[Lesson, ...]:
    """Every lesson, in a fixed order."""
    return (*_sums(), *_products(), *_capitals(), *_written("nearfield.toml"), *_written("talk.toml"))


def casual(question: str) -> str:
    """The question as people type it: lower case, no stop at the end."""
    return question.lower().rstrip("?!. ")


def ask(lesson: Lesson, rng: random.Random) -> str:
    """One of the lesson's questions, now and then in its casual form."""
    question = rng.choice(lesson.questions)
    return casual(question) if rng.random() < CASUAL_SHARE else question
