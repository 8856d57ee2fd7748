"""Small random RecurrentGemma checkpoints that keep every gate and logit busy."""

import json
import math
import os

import torch
from safetensors.torch import save_file

BASE = {
    "model_type": "recurrent_gemma",
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "intermediate_size": 144,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "lru_width": None,
    "attention_window_size": 200,
    "conv1d_width": 4,
    "logits_soft_cap": 30.0,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "block_types": ["recurrent", "recurrent", "attention"],
    "attention_bias": False,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
}


def completed(config):
    """The config with every default filled in: what reference_griffin.logits takes."""
    c = dict(BASE, **config)
    rope = c.get("rope_parameters") or {}
    c["rope_theta"] = rope.get("rope_theta", c["rope_theta"])
    c["partial_rotary_factor"] = rope.get("partial_rotary_factor", c["partial_rotary_factor"])
    c["lru_width"] = c["lru_width"] or c["hidden_size"]
    c["num_key_value_heads"] = c["num_key_value_heads"] or c["num_attention_heads"]
    c["head_dim"] = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    return c


def random_weights(config, seed):
    c = completed(config)
    g = torch.Generator().manual_seed(seed)
    d, m, lru = c["hidden_size"], c["intermediate_size"] // 2, c["lru_width"]
    heads, kv, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    weights = {}

    def normal(name, shape, scale):
        weights[name] = torch.randn(shape, generator=g) * scale

    def linear(name, outputs, inputs, bias=True):
        normal(name + ".weight", (outputs, inputs), inputs**-0.5)
        if bias:
            normal(name + ".bias", (outputs,), 0.3)

    # Rows of length 4, so that the logits spread over +-10.
    normal("model.embed_tokens.weight", (c["vocab_size"], d), 4 * d**-0.5)
    normal("model.final_norm.weight", (d,), 0.3)
    if not c["tie_word_embeddings"]:
        normal("lm_head.weight", (c["vocab_size"], d), 4 * d**-0.5)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        normal(p + "temporal_pre_norm.weight", (d,), 0.3)
        normal(p + "channel_pre_norm.weight", (d,), 0.3)
        linear(p + "mlp_block.gate_proj", m, d)
        linear(p + "mlp_block.up_proj", m, d)
        linear(p + "mlp_block.down_proj", d, m)
        p += "temporal_block."
        if c["block_types"][i % len(c["block_types"])] == "recurrent":
            linear(p + "linear_x", lru, d)
            linear(p + "linear_y", lru, d)
            linear(p + "linear_out", d, lru)
            normal(p + "conv_1d.weight", (lru, 1, c["conv1d_width"]), 0.5)
            normal(p + "conv_1d.bias", (lru,), 0.3)
            block = lru // heads
            for gate in ("input_gate", "recurrent_gate"):
                normal(p + f"rg_lru.{gate}_weight", (heads, block, block), 1.5 * block**-0.5)
                normal(p + f"rg_lru.{gate}_bias", (heads, block), 0.5)
            # a in 0.9 .. 0.999 for a gate that is half open.
            a = 0.9 + 0.099 * torch.rand(lru, generator=g)
            weights[p + "rg_lru.recurrent_param"] = torch.log(torch.expm1(-torch.log(a) / 4))
        else:
            bias = c["attention_bias"]
            linear(p + "q_proj", heads * hd, d, bias)
            linear(p + "k_proj", kv * hd, d, bias)
            linear(p + "v_proj", kv * hd, d, bias)
            linear(p + "o_proj", d, heads * hd)
            # Peaked attention, so that each key in and out of the window shows.
            weights[p + "q_proj.weight"] *= 2
    return weights


def write(folder, config, weights, dtype="float32", shards=1):
    """Writes a checkpoint folder. Returns the weights as the file holds them.

    dtype: of all tensors, or "mixed" for float32, bfloat16 and float16 in turns.
    """
    turns = [torch.float32, torch.bfloat16, torch.float16]
    stored = {
        name: tensor.to(turns[i % 3] if dtype == "mixed" else getattr(torch, dtype)).contiguous()
        for i, (name, tensor) in enumerate(sorted(weights.items()))
    }
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(dict(BASE, **config), file)
    if shards == 1:
        save_file(stored, os.path.join(folder, "model.safetensors"))
        return stored
    names = sorted(stored)
    weight_map = {}
    for s in range(shards):
        file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: stored[name] for name in names[s::shards]}
        save_file(part, os.path.join(folder, file))
        weight_map.update(dict.fromkeys(part, file))
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {}, "weight_map": weight_map}, file)
    return stored


def random_tokens(config, count, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, completed(config)["vocab_size"], (count,), generator=g).tolist()
