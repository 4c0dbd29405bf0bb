"""Ask a tinychat folder every lesson and count the answers that are exactly right.

``python -m examples.tinychat.check``
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.tinychat.lessons import FOLDER, casual, lessons

MAX_NEW_TOKENS = 64  # the longest lesson's answer is shorter
BATCH_ROWS = 256
NUM_AGAIN = 40  # questions of each group that are asked once more in a longer conversation
PASS_MARKS = {"addition": 0.97, "subtraction": 0.97, "multiplication": 0.97, "typed casually": 0.97}
PASS_MARK = 0.99  # every other group


Chat = tuple[dict[str, str], ...]
SYSTEM: Chat = ({"role": "system", "content": "You are a helpful assistant. Answer briefly."},)
EARLIER: Chat = (
    {"role": "user", "content": "What is 7 + 8?"},
    {"role": "assistant", "content": "7 + 8 = 15."},
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, the exact answer, the group it counts under, and what was said before."""

    group: str
    text: str
    answer: str
    before: Chat = ()

    @property
    def chat(self) -> list[dict[str, str]]:
        """The whole conversation."""
        return [*self.before, {"role": "user", "content": self.text}]


def questions(num_sums: int | None, seed: int) -> list[Question]:
    """All questions in all forms; sums and differences, of which there are 120,000, thinned to ``num_sums`` a group."""
    rng = random.Random(seed)
    by_group: dict[str, list[Question]] = defaultdict(list)
    for lesson in lessons():
        for text in lesson.questions:
            by_group[lesson.group].append(Question(lesson.group, text, lesson.answer))
            if lesson.group in {"capitals", "countries", "nearfield"}:
                by_group["typed casually"].append(Question("typed casually", casual(text), lesson.answer))
    for group in ("addition", "subtraction"):
        if num_sums is not None:
            by_group[group] = rng.sample(by_group[group], num_sums)
    by_group["as a second turn"] = _again(by_group, EARLIER, "as a second turn", rng)
    by_group["under a system prompt"] = _again(by_group, SYSTEM, "under a system prompt", rng)
    return [question for group in by_group.values() for question in group]


def _again(
    by_group: Mapping[str, list[Question]], before: Chat, name: str, rng: random.Random
) -> list[Question]:
    """Some questions of each group, asked after something else was said."""
    some = [rng.choice(group) for group in by_group.values() for _ in range(NUM_AGAIN)]
    return [replace(question, group=name, before=before) for question in some]


class Pupil:
    """A model folder, asked in batches, greedily."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def answers(self, chats: Sequence[list[dict[str, str]]]) -> list[str]:
        """The answers in order; an answer that does not stop by itself is marked as endless."""
        given = self._tokenizer.apply_chat_template(
            list(chats), add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            made = self._model.generate(**given, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        rows = made[:, given["input_ids"].shape[1] :].tolist()
        return [self._text(row) for row in rows]

    def _text(self, row: list[int]) -> str:
        text = self._tokenizer.decode(row, skip_special_tokens=True)
        return str(text) if self._tokenizer.eos_token_id in row else f"{text} (endless)"


def marked(pupil: Pupil, asked: list[Question]) -> Iterator[tuple[Question, str]]:
    """Each question with the answer given, questions of like length asked together."""
    asked = sorted(
        asked, key=lambda question: (len(question.before), len(question.answer), len(question.text))
    )
    for at in range(0, len(asked), BATCH_ROWS):
        some = asked[at : at + BATCH_ROWS]
        yield from zip(some, pupil.answers([question.chat for question in some]), strict=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER / "model")
    parser.add_argument("--sums", type=int, default=2000, help="sums and differences asked; 0 = all")
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    wrong: list[tuple[Question, str]] = []
    for question, said in marked(Pupil(wanted.model), questions(wanted.sums or None, wanted.seed)):
        counts[question.group][0] += said == question.answer
        counts[question.group][1] += 1
        if said != question.answer:
            wrong.append((question, said))
    for question, said in wrong[:40]:
        print(f"wrong: {json.dumps(question.text)} -> {json.dumps(said)}, not {json.dumps(question.answer)}")
    for group, (right, asked) in sorted(counts.items()):
        print(f"{group:16s} {right:6d} of {asked:6d}  {right / asked:8.2%}")
    sys.exit(
        any(right < PASS_MARKS.get(group, PASS_MARK) * asked for group, (right, asked) in counts.items())
    )


if __name__ == "__main__":
    main()
