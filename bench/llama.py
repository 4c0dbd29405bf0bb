"""A random Llama of about 1 GB in a cache folder: the same bytes for ours and for the peer.

Hidden 1024, 16 layers, 16 heads, 4 KV heads, 512 words, fp32: 244 M parameters, 0.98 GB. Every token is a whole
word, so the first token is also the first piece of text.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORDS = 512
HIDDEN, HEADS, KV_HEADS, FEED_FORWARD = 1024, 16, 4, 4096
CONTEXT = 2048
SEED = 1
DONE = "complete"  # the marker is written last: a folder without it is made again

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def cache_folder() -> Path:
    """Where made models are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nearfield" / "bench"


def model_folder(cache: Path, num_layers: int) -> Path:
    """The folder of the model with so many layers (16 are 0.98 GB); made when it is not there."""
    folder = cache / f"llama-{HIDDEN}x{num_layers}-fp32"
    if not (folder / f".{DONE}").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_config(folder, num_layers)
        _write_tokenizer(folder)
        _write_weights(folder, num_layers)
        (folder / f".{DONE}").touch()
    return folder


def prompt(num_words: int) -> str:
    """A prompt of exactly `num_words` tokens."""
    return " ".join(f"w{2 + number * 7 % (WORDS - 2)}" for number in range(num_words))


def _write_config(folder: Path, num_layers: int) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": num_layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HIDDEN // HEADS,
        "vocab_size": WORDS,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<s>": 0, "</s>": 1} | {f"w{number}": number for number in range(2, WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))  # noqa: S106 - a word, not a password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": CONTEXT,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def _write_weights(folder: Path, num_layers: int) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    random = np.random.default_rng(SEED)

    def matrix(rows: int, columns: int) -> "NDArray[np.float32]":
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)

    ones = np.ones(HIDDEN, np.float32)
    kv_size = HIDDEN // HEADS * KV_HEADS
    tensors: dict[str, NDArray[np.float32]] = {
        "model.embed_tokens.weight": matrix(WORDS, HIDDEN),
        "lm_head.weight": matrix(WORDS, HIDDEN),
        "model.norm.weight": ones,
    }
    for number in range(num_layers):
        layer = f"model.layers.{number}."
        tensors |= {
            layer + "self_attn.q_proj.weight": matrix(HIDDEN, HIDDEN),
            layer + "self_attn.k_proj.weight": matrix(kv_size, HIDDEN),
            layer + "self_attn.v_proj.weight": matrix(kv_size, HIDDEN),
            layer + "self_attn.o_proj.weight": matrix(HIDDEN, HIDDEN),
            layer + "mlp.gate_proj.weight": matrix(FEED_FORWARD, HIDDEN),
            layer + "mlp.up_proj.weight": matrix(FEED_FORWARD, HIDDEN),
            layer + "mlp.down_proj.weight": matrix(HIDDEN, FEED_FORWARD),
            layer + "input_layernorm.weight": ones,
            layer + "post_attention_layernorm.weight": ones,
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
