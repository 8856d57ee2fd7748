"""RecurrentGemma in double precision, written for reading: the third opinion of the parity tests.

No state and no chunks: every position is computed from the whole text. The window is the authors':
position p sees the keys p - window .. p.
"""

import math

import torch
from torch.nn import functional as F

ACTIVATIONS = {
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
}


def bfloat16(x):
    return torch.tensor(x).to(torch.bfloat16).double()


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (1 + weight)


def causal_conv(x, weight, bias):
    """x [T, C], weight [C, 1, K]: tap K - 1 meets the current input."""
    k = weight.shape[-1]
    padded = torch.cat([x.new_zeros(k - 1, x.shape[1]), x])
    return bias + sum(weight[:, 0, j] * padded[j : j + len(x)] for j in range(k))


def rg_lru(u, w, prefix, heads):
    """Griffin, equations 1-4, with the block-diagonal gates of RecurrentGemma."""

    def gate(name):
        blocks = u.view(len(u), heads, -1)
        out = torch.einsum("thi,hij->thj", blocks, w[prefix + name + "_gate_weight"])
        return torch.sigmoid(out + w[prefix + name + "_gate_bias"]).reshape(u.shape)

    log_a = -8 * gate("recurrent") * F.softplus(w[prefix + "recurrent_param"])
    a = torch.exp(log_a)
    scale = torch.sqrt(-torch.expm1(2 * log_a))
    a[0], scale[0] = 0, 1  # the first token of a text starts afresh
    x = scale * gate("input") * u
    h, out = torch.zeros_like(u[0]), []
    for t in range(len(u)):
        h = a[t] * h + x[t]
        out.append(h)
    return torch.stack(out)


def recurrent_block(x, w, p, c):
    linear = lambda name, v: F.linear(v, w[p + name + ".weight"], w[p + name + ".bias"])
    y = ACTIVATIONS[c["hidden_activation"]](linear("linear_y", x))
    u = causal_conv(linear("linear_x", x), w[p + "conv_1d.weight"], w[p + "conv_1d.bias"])
    return linear("linear_out", rg_lru(u, w, p + "rg_lru.", c["num_attention_heads"]) * y)


def rope(x, theta, dims):
    """Rotates the first `dims` of x [T, heads, head_dim], pairing i with i + dims / 2.

    The angle is rounded to float32 as in both implementations: that is part of the model.
    """
    if dims == 0:
        return x
    frequencies = 1.0 / theta ** (torch.arange(0, dims, 2).float() / dims)
    angles = (torch.arange(len(x)).float()[:, None] * frequencies).double()[:, None, :]
    a, b, rest = x[..., : dims // 2], x[..., dims // 2 : dims], x[..., dims:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def attention_block(x, w, p, c):
    head_dim, heads, kv_heads = c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]

    def project(name, n):
        out = F.linear(x, w[p + name + ".weight"], w.get(p + name + ".bias"))
        return out.view(len(x), n, head_dim)

    dims = int(head_dim * c["partial_rotary_factor"])
    q = rope(project("q_proj", heads), c["rope_theta"], dims)
    k = rope(project("k_proj", kv_heads), c["rope_theta"], dims)
    v = project("v_proj", kv_heads)
    k, v = (z.repeat_interleave(heads // kv_heads, 1) for z in (k, v))
    scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(head_dim)
    t = torch.arange(len(x))
    behind = t[:, None] - t[None, :]
    scores[:, (behind < 0) | (behind > c["attention_window_size"])] = -math.inf
    out = torch.einsum("hts,shd->thd", scores.softmax(-1), v).reshape(len(x), -1)
    return F.linear(out, w[p + "o_proj.weight"], w[p + "o_proj.bias"])


def mlp(x, w, p, c):
    linear = lambda name, v: F.linear(v, w[p + name + ".weight"], w[p + name + ".bias"])
    gate = ACTIVATIONS[c["hidden_activation"]](linear("gate_proj", x))
    return linear("down_proj", gate * linear("up_proj", x))


def logits(config, weights, tokens):
    """config: a dict with every key present; weights: by checkpoint name. Returns double [T, vocab]."""
    c, w = config, {name: tensor.double() for name, tensor in weights.items()}
    embedding = w["model.embed_tokens.weight"]
    x = embedding[torch.tensor(tokens)] * bfloat16(math.sqrt(c["hidden_size"]))
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        recurrent = c["block_types"][i % len(c["block_types"])] == "recurrent"
        block = recurrent_block if recurrent else attention_block
        normed = rms_norm(x, w[p + "temporal_pre_norm.weight"], c["rms_norm_eps"])
        x = x + block(normed, w, p + "temporal_block.", c)
        normed = rms_norm(x, w[p + "channel_pre_norm.weight"], c["rms_norm_eps"])
        x = x + mlp(normed, w, p + "mlp_block.", c)
    x = rms_norm(x, w["model.final_norm.weight"], c["rms_norm_eps"])
    out = x @ (embedding if c["tie_word_embeddings"] else w["lm_head.weight"]).T
    cap = c["logits_soft_cap"]
    return cap * torch.tanh(out / cap) if cap else out
