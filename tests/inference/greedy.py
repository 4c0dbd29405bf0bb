"""What transformers' own `generate` answers, greedily: the engine's oracle."""

import torch


def greedy(model, prompt, num_tokens):
    """The ids of exactly `num_tokens` tokens after `prompt`, as a list."""
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()
