"""A Llama folder as llama.cpp reads it, for the tests: what its own converter does, for the one tiny model they have.

python to_gguf.py FOLDER OUTFILE     (needs the packages gguf, numpy and safetensors)
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def name_of(name):
    stem, _, kind = name.rpartition(".")
    if stem in TOP:
        return f"{TOP[stem]}.{kind}"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{BLOCK[part]}.{kind}"


def interleaved(weight, heads):
    """transformers turns the halves of a head, llama.cpp its neighbours."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def tokens_of(tokenizer):
    """(words, kinds) by id: special ones are control tokens, added ones are matched whole."""
    words = {number: word for word, number in tokenizer["model"]["vocab"].items()}
    kinds = dict.fromkeys(words, gguf.TokenType.NORMAL)
    for each in tokenizer["added_tokens"]:
        words[each["id"]] = each["content"]
        kinds[each["id"]] = gguf.TokenType.CONTROL if each["special"] else gguf.TokenType.USER_DEFINED
    order = range(len(words))
    return [words[number] for number in order], [kinds[number] for number in order]


def main():
    folder, outfile = Path(sys.argv[1]), sys.argv[2]
    config, tokenizer = (
        json.loads((folder / f"{each}.json").read_text()) for each in ("config", "tokenizer")
    )
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(outfile, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    words, kinds = tokens_of(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges(
        [each if isinstance(each, str) else " ".join(each) for each in tokenizer["model"]["merges"]]
    )
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    for path in sorted(folder.glob("*.safetensors")):
        for name, weight in load_file(path).items():
            turned = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2])
            value = interleaved(weight, turned) if turned else weight
            writer.add_tensor(name_of(name), np.ascontiguousarray(value, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
