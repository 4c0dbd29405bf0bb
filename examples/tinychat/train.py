"""Train tinychat on the lessons, on one CPU thread, in minutes: ``python -m examples.tinychat.train``.

Plain torch: conversations of one to four turns, cross-entropy on the answers alone, Muon on the matrices of the
layers and AdamW on the rest. The same seed gives the same model on the same machine and torch.
"""

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from examples.tinychat import vocabulary
from examples.tinychat.lessons import FOLDER, Lesson, ask, lessons

MAX_LEN_TOKENS = 512
NUM_STEPS = 700
NUM_ROWS = 128  # conversations a step
NUM_PARTS = 4  # a step's rows, sorted by length, go through the model in this many parts: less padding
TURNS = (1, 1, 1, 1, 2, 3)
SYSTEM_SHARE = 0.1  # of the conversations open with a system message of shuffled words, to be read past
SHORT_SHARE = 0.25  # of the sums: the shortest of a few draws, for one-digit numbers are rare among all
SHORT_DRAWS = 12
MATRIX_RATE = 0.02  # Muon, on its own scale
OTHER_RATE = 0.003  # AdamW, for embedding and norms
WARMUP_STEPS = 50
SUMS = frozenset({"addition", "subtraction"})
SHARES = {
    "addition": 0.30,
    "subtraction": 0.24,
    "multiplication": 0.08,
    "capitals": 0.10,
    "countries": 0.06,
    "nearfield": 0.15,
    "greeting": 0.02,
    "unknown": 0.05,
}


@dataclass(frozen=True, slots=True)
class Batch:
    """``tokens`` (rows, length) and ``answers`` of the same shape: true where the token is to be predicted."""

    tokens: torch.Tensor
    answers: torch.Tensor


class Teacher:
    """Draws conversations; all randomness from one generator."""

    def __init__(self, taught: tuple[Lesson, ...], tokenizer: Tokenizer, rng: random.Random) -> None:
        self._rng = rng
        self._encode = {text: id_ for text, id_ in tokenizer.get_vocab().items() if text.startswith("<|")}
        self._tokenizer = tokenizer
        self._groups = {group: [x for x in taught if x.group == group] for group in SHARES}
        self._words = sorted({word for x in taught for word in f"{x.questions[0]} {x.answer}".split()})

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _lesson(self, group: str) -> Lesson:
        choices = self._groups[group]
        if group not in SUMS or self._rng.random() >= SHORT_SHARE:
            return self._rng.choice(choices)
        return min(self._rng.choices(choices, k=SHORT_DRAWS), key=lambda lesson: len(lesson.answer))

    def conversation(self, num_turns: int) -> tuple[list[int], list[bool]]:
        """Token ids and, for each, whether it belongs to an answer (its closing <|end|> included)."""
        mark, end = self._encode, self._encode[vocabulary.END]
        ids = [mark[vocabulary.BEGIN]]
        if self._rng.random() < SYSTEM_SHARE:
            words = self._rng.choices(self._words, k=self._rng.randint(3, 12))
            ids += [mark["<|system|>"], *self._ids(" ".join(words)), end]
        answers = [False] * len(ids)
        for group in self._rng.choices(list(SHARES), list(SHARES.values()), k=num_turns):
            lesson = self._lesson(group)
            asked = [mark["<|user|>"], *self._ids(ask(lesson, self._rng)), end, mark["<|assistant|>"]]
            said = [*self._ids(lesson.answer), end]
            ids += asked + said
            answers += [False] * len(asked) + [True] * len(said)
        return ids, answers

    def _batch(self, rows: list[tuple[list[int], list[bool]]]) -> Batch:
        pad, length = self._encode[vocabulary.PAD], max(len(ids) for ids, _ in rows)
        return Batch(
            torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows]),
            torch.tensor([answers + [False] * (length - len(answers)) for _, answers in rows]),
        )

    def steps(self) -> Iterator[list[Batch]]:
        """The parts of each step, without end, padded on the right (a causal model never looks there)."""
        size = NUM_ROWS // NUM_PARTS
        while True:
            rows = [self.conversation(self._rng.choice(TURNS)) for _ in range(NUM_ROWS)]
            rows.sort(key=lambda row: len(row[0]))
            yield [self._batch(rows[at : at + size]) for at in range(0, NUM_ROWS, size)]


def new_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """About 1.6 million parameters: four layers, six query heads on two key-value heads."""
    token = tokenizer.token_to_id
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=192,
            intermediate_size=448,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=MAX_LEN_TOKENS,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=token(vocabulary.BEGIN),
            eos_token_id=token(vocabulary.END),
            pad_token_id=token(vocabulary.PAD),
        )
    )


def optimizers(model: LlamaForCausalLM) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the layers' matrices, AdamW for embedding and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return (
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=OTHER_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
    )


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Cross-entropy summed over the answers' tokens; logits are made for those positions only."""
    hidden = model.model(input_ids=batch.tokens[:, :-1], use_cache=False).last_hidden_state
    wanted = batch.answers[:, 1:]
    return functional.cross_entropy(
        model.lm_head(hidden[wanted]), batch.tokens[:, 1:][wanted], reduction="sum"
    )


def learn(model: LlamaForCausalLM, parts: list[Batch]) -> float:
    """Add one step's gradients to the model and return the mean loss of its answers' tokens."""
    num_answers = sum(int(part.answers.sum()) for part in parts)
    total = 0.0
    for part in parts:
        loss = loss_of(model, part) / num_answers
        loss.backward()
        total += loss.item()
    return total


def rate_share(step: int, num_steps: int) -> float:
    """Part of the full rate at a step: a short rise, then straight down to zero."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (num_steps - step) / (num_steps * 0.7))


def teach(model: LlamaForCausalLM, steps: Iterator[list[Batch]], num_steps: int) -> None:
    """Run the loop, in place, and print the loss every 50 steps."""
    made = optimizers(model)
    full = [group["lr"] for optimizer in made for group in optimizer.param_groups]
    started, mean = time.perf_counter(), 0.0
    for step in range(num_steps):
        groups = [group for optimizer in made for group in optimizer.param_groups]
        for group, rate in zip(groups, full, strict=True):
            group["lr"] = rate * rate_share(step, num_steps)
        loss = learn(model, next(steps))
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad()
        mean = loss if not mean else 0.95 * mean + 0.05 * loss
        if step % 50 == 49:
            print(f"step {step + 1:5d}  loss {mean:.4f}  {time.perf_counter() - started:6.0f} s", flush=True)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the Hugging Face folder; the hand-written README in it stays."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    model.eval().save_pretrained(folder)
    vocabulary.save(tokenizer, folder, MAX_LEN_TOKENS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER / "model")
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(wanted.seed)
    taught = lessons()
    tokenizer = vocabulary.train(taught)
    model = new_model(tokenizer)
    print(f"{len(taught)} lessons, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    teach(model, Teacher(taught, tokenizer, random.Random(wanted.seed)).steps(), wanted.steps)
    save(model, tokenizer, wanted.out)


if __name__ == "__main__":
    main()
