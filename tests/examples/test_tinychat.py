"""tinychat: the committed folder is what the script makes, any client tokenizes it alike, and its answers are right."""

import json
import random
from pathlib import Path

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from examples.tinychat import vocabulary
from examples.tinychat.check import Pupil, Question, marked, questions
from examples.tinychat.lessons import FOLDER, casual, lessons
from examples.tinychat.train import MAX_LEN_TOKENS, SHARES, Teacher, new_model, rate_share
from tests.evidence import IS_WHOLE, count

MODEL = FOLDER / "model"
MAX_FOLDER_BYTES = 8_000_000
VERIFIED = json.loads((FOLDER / "questions.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pupil() -> Pupil:
    return Pupil(MODEL)


@pytest.mark.parametrize("verified", VERIFIED, ids=lambda verified: verified["question"])
def test_verified_questions_are_answered(pupil, verified):
    """The answers that tests and the demo rely on: greedy, exact, and ended by the model itself."""
    chat = [{"role": "user", "content": verified["question"]}]

    assert pupil.answers([chat]) == [verified["answer"]]


def test_verified_questions_are_lessons():
    """Their answers are those that the model was taught."""
    taught = {(question, lesson.answer) for lesson in lessons() for question in lesson.questions}

    assert {(verified["question"], verified["answer"]) for verified in VERIFIED} <= taught


def test_a_sample_of_every_group_is_right(pupil):
    """The whole set is `python -m examples.tinychat.check`; a sample of it is right but for a slip."""
    asked = questions(num_sums=60, seed=11)
    some = random.Random(11).sample(asked, count(60, 300))
    right = [said == question.answer for question, said in marked(pupil, some)]

    assert sum(right) >= 0.97 * len(right)


def test_answers_do_not_depend_on_what_was_said_before(pupil):
    """A system prompt and an earlier turn change nothing."""
    before = (
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello! Ask me a sum, a capital, or something about Nearfield."},
    )
    asked = Question("capitals", "What is the capital of Italy?", "The capital of Italy is Rome.", before)

    assert pupil.answers([asked.chat]) == [asked.answer]


def test_the_folder_is_small_and_whole():
    """What a push needs, nothing that runs, under 8 MB."""
    names = {path.name for path in MODEL.iterdir()}

    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < MAX_FOLDER_BYTES


def test_the_weights_are_those_of_the_script():
    """The committed config and tensors have the shapes that `train.py` makes."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    made = new_model(tokenizer)
    wanted = {
        name: list(tensor.shape) for name, tensor in made.state_dict().items() if name != "lm_head.weight"
    }
    with safe_open(MODEL / "model.safetensors", "pt") as file:
        found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict

    assert found == wanted
    config = AutoConfig.from_pretrained(MODEL)
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.max_position_embeddings == MAX_LEN_TOKENS
    assert config.eos_token_id == tokenizer.token_to_id(vocabulary.END)


@pytest.mark.skipif(not IS_WHOLE, reason="it is trained again: make evidence does that")
def test_the_tokenizer_is_the_lessons():
    """The committed tokenizer is the one that the script trains, byte for byte in its rules."""
    committed = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    trained = json.loads(vocabulary.train(lessons()).to_str())

    for part in ("model", "pre_tokenizer", "decoder", "added_tokens"):
        assert committed[part] == trained[part]


@pytest.mark.parametrize(
    "chat",
    [
        [{"role": "user", "content": "What is 23 + 58?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Grüße, 東京 \n🙂 "}],
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "7 x 8 = ?"},
        ],
    ],
)
def test_every_client_makes_the_same_tokens(chat):
    """AutoTokenizer with the template and the bare tokenizers library on its text agree; any text comes back."""
    whole, bare = AutoTokenizer.from_pretrained(MODEL), Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    text = whole.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = whole.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]

    assert ids == bare.encode(text, add_special_tokens=False).ids
    assert bare.decode(ids, skip_special_tokens=False) == text
    assert text.endswith("<|assistant|>")


def test_digits_are_single_tokens():
    """Arithmetic is learnable because each digit has a place of its own."""
    bare = Tokenizer.from_file(str(MODEL / "tokenizer.json"))

    assert bare.encode("123+45", add_special_tokens=False).tokens == list("123+45")


def test_an_unknown_role_is_refused():
    """The template says what it knows."""
    whole = AutoTokenizer.from_pretrained(MODEL)

    with pytest.raises(Exception, match="roles system, user and assistant"):
        whole.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_lessons_are_many_true_and_unambiguous():
    """No question has two answers, in either of its forms; the sums are right."""
    answers: dict[str, str] = {}
    for lesson in lessons():
        for question in lesson.questions:
            for form in (question, casual(question)):
                assert answers.setdefault(form, lesson.answer) == lesson.answer, form
        if lesson.group in {"addition", "subtraction", "multiplication"}:
            left, right = lesson.answer.rstrip(".").replace("x", "*").split(" = ")
            a, sign, b = left.split()
            assert int(right) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
    groups = {lesson.group for lesson in lessons()}
    assert groups == set(SHARES)
    assert sum(lesson.group == "capitals" for lesson in lessons()) >= 60
    assert sum(lesson.group == "nearfield" for lesson in lessons()) >= 30


def test_conversations_mark_exactly_the_answers():
    """Only what the model is to say is learned, its end included; the same seed gives the same lessons."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    ids, answers = Teacher(lessons(), tokenizer, random.Random(4)).conversation(3)
    again = Teacher(lessons(), tokenizer, random.Random(4)).conversation(3)
    end = tokenizer.token_to_id("<|end|>")

    assert (ids, answers) == again
    assert len(ids) == len(answers)
    assert sum(id_ == end and marked_ for id_, marked_ in zip(ids, answers, strict=True)) == 3
    said = tokenizer.decode([id_ for id_, marked_ in zip(ids, answers, strict=True) if marked_])
    taught = {lesson.answer for lesson in lessons()}
    assert any(said.startswith(answer) for answer in taught)


def test_the_rate_rises_and_falls_to_zero():
    """The last step hardly moves the weights, the first neither."""
    rates = [rate_share(step, 1000) for step in range(1000)]

    assert rates[0] < 0.05
    assert max(rates) == 1.0
    assert rates[-1] < 0.02


def test_paths_in_the_folder_are_of_no_machine():
    """Nothing in the committed files names a place on the machine that made them."""
    for path in (*MODEL.glob("*.json"), MODEL / "README.md"):
        assert "/tmp" not in path.read_text(encoding="utf-8")
        assert str(Path.home()) + "/" not in path.read_text(encoding="utf-8")
