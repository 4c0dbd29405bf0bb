"""Answers under a grammar: every one valid, each row under its own, and a bad grammar costs its own request only."""

import json
import random
import threading
import zlib

import pytest
import torch

from inference.api.grammar.structure import read_choice, read_lark, read_regex, read_schema
from inference.engine.choose.grammar import Follower, GrammarFault
from inference.engine.choose.sample import Sampler, choose_all
from inference.engine.generation import GenerateLoop
from inference.engine.orders.asked import Bounds, OrderRefused, Sampling
from inference.engine.orders.reading import parse_order
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.slots import SlotPlan
from inference.link import EngineLink, FrameReader, frame_bytes, link_pair
from tests.evidence import count
from tests.inference.fake_engine import END, VOCABULARY

IDS = VOCABULARY.num_ids
WIDTH = IDS + 12  # logits are often wider than the tokenizer
NUM_SCHEMAS = count(100, 500)


class Noise:
    """A model of random logits: without a mask its answers are rubbish.

    Each request's are its own, whichever steps it comes into: threads that are late change no answer.
    """

    def __init__(self, seed=0):
        self.seed, self.generators = seed, {}

    def forward(self, step):
        kept = [part.id for part in step if part.samples]
        return kept, torch.stack([self.logits(key) for key in kept]) if kept else torch.empty(0, WIDTH)

    def logits(self, key):
        if key not in self.generators:
            self.generators[key] = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {key}".encode()))
        return torch.randn(WIDTH, generator=self.generators[key]) * 3

    def choose(self, logits, samplers):
        return choose_all(logits, samplers)

    def release(self, slot, *, scrub):
        pass


def served(orders, num_slots=16, *, taught=True):
    """{id: (tokens, its last message)} of a loop that is sent `orders` (id -> fields)."""
    node, ours = link_pair()
    loop = GenerateLoop(
        EngineLink(ours),
        Scheduler(num_slots, frozenset({END}), max_waiting=1000),
        Noise(),
        None,
        Bounds(WIDTH, 600),
        SlotPlan(num_slots, 600, 0),
    )
    messages = [VOCABULARY.lesson()] if taught else []
    messages += [
        {"op": "add", "id": key, "tokens": [1, 2], "max_tokens": 500} | fields
        for key, fields in orders.items()
    ]
    running = threading.Thread(target=loop.serve, args=({"op": "ready"},))
    running.start()
    sending = threading.Thread(
        target=lambda: [node.sendall(frame_bytes(one)) for one in [*messages, {"op": "stop"}]]
    )
    sending.start()
    node.settimeout(100)
    reader, answers = FrameReader(), {key: ([], None) for key in orders}
    while any(end is None for _, end in answers.values()):
        for message in reader.receive(node.recv(1 << 16)):
            if message["op"] == "tokens":
                answers[message["id"]][0].extend(message["tokens"])
            elif message["op"] in {"done", "failed"}:
                answers[message["id"]] = (answers[message["id"]][0], message)
    sending.join()
    running.join()
    return answers


def text_of(answer):
    return VOCABULARY.decode(answer[0])


SCALARS = (
    lambda draw: {"type": "integer", "minimum": draw.randint(-9, 0), "maximum": draw.randint(1, 5000)},
    lambda draw: {"type": "string", "maxLength": draw.randint(1, 8)},
    lambda draw: {"enum": draw.sample(["red", "grün", 1, None, True, "a b", 2.5], 3)},
    lambda draw: {"type": "boolean"},
    lambda draw: {"const": draw.choice(["x", 7, False])},
    lambda draw: {"type": "string", "pattern": "^[a-f]{2,5}$"},
)


def made(draw, depth=0):
    """A random schema whose texts are bounded, of the parts that tool and answer schemas are made of."""
    kind = draw.random()
    if depth < 2 and kind < 0.45:
        names = draw.sample(["id", "name", "größe", "tags", "a b", "n"], draw.randint(1, 4))
        return {
            "type": "object",
            "properties": {name: made(draw, depth + 1) for name in names},
            "required": names[: draw.randint(0, len(names))],
            "additionalProperties": False,
        }
    if depth < 2 and kind < 0.6:
        return {"type": "array", "items": made(draw, depth + 1), "maxItems": draw.randint(1, 3)}
    if depth < 2 and kind < 0.7:
        return {"anyOf": [made(draw, depth + 1), {"type": "null"}]}
    return draw.choice(SCALARS)(draw)


def holds_object(value, schema):
    inside = schema["properties"]
    named = isinstance(value, dict) and set(schema["required"]) <= set(value) <= set(inside)
    return named and all(holds(value[name], inside[name]) for name in value)


def holds_array(value, schema):
    fits = isinstance(value, list) and len(value) <= schema["maxItems"]
    return fits and all(holds(one, schema["items"]) for one in value)


def holds_string(value, schema):
    plain = isinstance(value, str) and len(value) <= schema.get("maxLength", 5)
    return plain and ("pattern" not in schema or (len(value) >= 2 and set(value) <= set("abcdef")))


HOLDS = {
    "object": holds_object,
    "array": holds_array,
    "string": holds_string,
    "integer": lambda value, schema: type(value) is int and schema["minimum"] <= value <= schema["maximum"],
    "boolean": lambda value, schema: type(value) is bool,
    "null": lambda value, schema: value is None,
}


def holds(value, schema):
    """Whether a schema of `made` holds for a value; written apart from what makes the answers."""
    if "anyOf" in schema:
        return any(holds(value, one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        known = schema.get("enum", [schema.get("const")])
        return any(type(value) is type(one) and value == one for one in known)
    return HOLDS[schema["type"]](value, schema)


@pytest.fixture(scope="module")
def many():
    draw = random.Random(5)
    schemas = {str(number): made(draw) for number in range(NUM_SCHEMAS)}
    orders = {
        key: {"grammar": read_schema(schema, "x").grammar, "seed": int(key), "temperature": int(key) % 2}
        for key, schema in schemas.items()
    }
    return schemas, served(orders)


def test_many_schemas_sixteen_at_a_time_all_give_valid_answers(many):
    schemas, answers = many
    wrong = {
        key: text_of(answer)
        for key, answer in answers.items()
        if answer[1].get("reason") != "stop" or not holds(json.loads(text_of(answer)), schemas[key])
    }

    assert wrong == {}
    assert len({json.dumps(schema) for schema in schemas.values()}) > 0.6 * NUM_SCHEMAS


def test_the_judge_of_these_answers_can_say_no(many):
    """Most answers do not hold for the schema of another request: rows that were mixed up would be seen."""
    schemas, answers = many
    other = [
        holds(json.loads(text_of(answers[key])), schemas[str((int(key) + 1) % NUM_SCHEMAS)])
        for key in schemas
    ]

    assert sum(other) < 0.3 * NUM_SCHEMAS


@pytest.mark.parametrize(
    ("structure", "fits"),
    [
        (read_regex("(ab|c/d){2}x?", "x"), lambda text: text.removesuffix("x") in {"abab", "abc/d", "c/dab", "c/dc/d"}),
        (read_regex("a\nb\\/[^a-z\x00-\x20]", "x"), lambda text: text.startswith("a\nb/") and len(text) == 5),
        (read_choice(["yes", 'n"o', "größer\\\n"], "x"), lambda text: text in {"yes", 'n"o', "größer\\\n"}),
        (read_lark('start: "<" word ">"\nword: /[a-c]{3}/', "x"), lambda text: len(text) == 5 and text[0] == "<"),
    ],
)  # fmt: skip
def test_other_kinds_of_structure(structure, fits):
    answers = served({str(seed): {"grammar": structure.grammar, "seed": seed} for seed in range(8)})

    assert [text_of(one) for one in answers.values() if not fits(text_of(one))] == []
    assert {one[1]["reason"] for one in answers.values()} == {"stop"}


def test_a_bad_grammar_and_one_that_outgrows_its_limits_cost_their_own_request_only():
    good = read_choice(["fine"], "x").grammar
    answers = served(
        {
            "good": {"grammar": good, "seed": 1},
            "bad": {"grammar": "start: nothing"},
            "plain": {"seed": 3, "max_tokens": 5, "ignore_eos": True},
            "again": {"grammar": good, "seed": 1},
        }
    )

    assert (answers["bad"][1]["op"], answers["bad"][1]["code"]) == ("failed", "bad_grammar")
    assert text_of(answers["good"]) == text_of(answers["again"]) == "fine"
    assert len(answers["plain"][0]) == 5


def test_a_schema_that_lets_nothing_begin_is_refused_in_words():
    """It compiles: that no answer fits shows at the first mask only. What llguidance adds of its parser is not told."""
    _, said = served({"a": {"grammar": read_schema({"$ref": "#"}, "x").grammar}})["a"]

    assert (said["op"], said["code"]) == ("failed", "bad_grammar")
    assert said["message"] == "it lets no answer begin, or go on from here"


def test_a_grammar_without_a_vocabulary_is_refused():
    answers = served({"a": {"grammar": 'start: "a"'}}, taught=False)

    assert answers["a"][1]["code"] == "bad_grammar"


def test_a_row_without_a_grammar_chooses_as_if_it_were_alone():
    """The same seed and logits give the same token beside a row with a grammar and without one."""
    fields = {"seed": 9, "max_tokens": 1, "ignore_eos": True}
    alone = served({"a": fields})
    crowd = served({"a": fields, "b": {"grammar": 'start: "b"'}})

    assert alone["a"][0] == crowd["a"][0]


@pytest.mark.parametrize(
    "message",
    [
        {"pieces": "?", "special": []},
        {"pieces": "AAE=", "special": []},
        {"pieces": "AAFh", "special": None},
        {"pieces": "AAFh" * (WIDTH + 1), "special": []},
    ],
)
def test_a_torn_vocabulary_is_refused(message):
    with pytest.raises(OrderRefused):
        parse_order({"op": "vocabulary"} | message, Bounds(WIDTH, 10))


def test_a_vocabulary_arrives_as_it_was_told():
    heard = parse_order(VOCABULARY.lesson(), Bounds(WIDTH, 10))

    assert heard.pieces == tuple(VOCABULARY.piece(token) for token in range(IDS))
    assert heard.special == {token for token in range(IDS) if VOCABULARY.is_special(token)}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_that_cannot_be_made_is_its_rows_own_fault(temperature):
    """Rows are masked together; whatever one of them raises, the others have their tokens."""

    class Ruled(Follower):
        def __init__(self, bits):
            super().__init__(None, 10)
            self.bits = bits

        def allows(self, token):
            return False

        def mask(self):
            if isinstance(self.bits, Exception):
                raise self.bits
            return self.bits.to_bytes(2, "little")

        def take(self, token):
            pass

    rules = [1 << 4, GrammarFault("too complex"), 0, ValueError("no mask"), 1 << 9]
    order = parse_order({"op": "add", "id": "a", "tokens": [1], "temperature": temperature}, Bounds(12, 10))
    free = Sampler.of(order, ())
    crowd = [*[Sampler.of(order, (), Ruled(bits)) for bits in rules], free]
    found = choose_all(torch.zeros(6, 12), crowd)

    assert [getattr(each, "token", None) or each.code for each in found[:5]] == [
        *(4, "bad_grammar", "bad_grammar", "engine_error", 9)
    ]
    assert [one.seen.total() for one in crowd] == [1, 0, 0, 0, 1, 1]


def test_a_greedy_row_makes_a_mask_only_when_its_best_token_may_not_come():
    """The cheap question is asked first; the answer is the same as with the mask."""

    class Counting:
        masks = 0

        def allows(self, token):
            return token != 3

        def only_allowed(self, logits):
            self.masks += 1
            changed = logits.clone()
            changed[3] = -torch.inf
            return changed

        def take(self, token):
            pass

    order = parse_order(
        {"op": "add", "id": "a", "tokens": [1], "temperature": 0, "grammar": "g"}, Bounds(10, 10)
    )
    follower = Counting()
    one = Sampler.of(order, (), follower)
    logits = torch.arange(10.0)

    assert (one.choose(logits).token, follower.masks) == (9, 0)
    logits[3] = 99.0
    assert (one.choose(logits).token, follower.masks) == (9, 1)
    assert order.sampling == Sampling(temperature=0.0)
