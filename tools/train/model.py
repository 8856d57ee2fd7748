"""Griffin as RecurrentGemma checkpoints hold it: parameter names are those of the checkpoint.

A row of tokens may hold several documents. `positions` counts from 0 at each document's start;
recurrence, convolution and attention never look past that start.
"""

import dataclasses
import json
import math
import os

import torch
import torch.nn.functional as F
from torch import nn

from scan import linear_scan


@dataclasses.dataclass
class GriffinConfig:
    hidden_size: int = 384
    num_hidden_layers: int = 9
    num_attention_heads: int = 6
    mlp_width: int = 1152  # half of the checkpoint's `intermediate_size`
    lru_width: int = 384
    vocab_size: int = 8192
    attention_window_size: int = 512
    conv1d_width: int = 4
    logits_soft_cap: float = 30.0
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 0.5
    block_types: tuple = ("recurrent", "recurrent", "attention")

    @property
    def head_dim(self):
        return self.hidden_size // self.num_attention_heads

    def block_type(self, layer):
        return self.block_types[layer % len(self.block_types)]

    @classmethod
    def from_folder(cls, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            values = json.load(file)
        values["mlp_width"] = values["intermediate_size"] // 2
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1.0 + self.weight.float())


class RGLRU(nn.Module):
    def __init__(self, config):
        super().__init__()
        heads, width = config.num_attention_heads, config.lru_width // config.num_attention_heads
        self.heads, self.width = heads, width
        self.recurrent_param = nn.Parameter(torch.empty(config.lru_width))
        self.input_gate_weight = nn.Parameter(torch.empty(heads, width, width))
        self.input_gate_bias = nn.Parameter(torch.zeros(heads, width))
        self.recurrent_gate_weight = nn.Parameter(torch.empty(heads, width, width))
        self.recurrent_gate_bias = nn.Parameter(torch.zeros(heads, width))

    def forward(self, u, positions):
        batch, time, lru_width = u.shape
        by_head = u.view(batch * time, self.heads, self.width).transpose(0, 1)
        # Both gates in one batched product per head.
        weight = torch.cat([self.input_gate_weight, self.recurrent_gate_weight], 2)
        gates = torch.bmm(by_head, weight).transpose(0, 1).float()
        input_gate, recurrent_gate = gates.split(self.width, -1)
        input_gate = torch.sigmoid(input_gate + self.input_gate_bias).reshape(batch, time, lru_width)
        recurrent_gate = torch.sigmoid(recurrent_gate + self.recurrent_gate_bias)
        recurrent_gate = recurrent_gate.reshape(batch, time, lru_width)

        log_a = -8.0 * recurrent_gate * F.softplus(self.recurrent_param.float())
        first = (positions == 0)[..., None]
        # The floor keeps the root's gradient finite where the gate is almost closed.
        scale = torch.sqrt(torch.clamp(-torch.expm1(2.0 * log_a), min=1e-12))
        scale = torch.where(first, 1.0, scale)
        a = torch.where(first, 0.0, torch.exp(log_a))
        return linear_scan(a, u.float() * input_gate * scale)


class ConvParameters(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width))
        self.bias = nn.Parameter(torch.zeros(channels))


class RecurrentBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.linear_x = nn.Linear(config.hidden_size, config.lru_width)
        self.linear_y = nn.Linear(config.hidden_size, config.lru_width)
        self.linear_out = nn.Linear(config.lru_width, config.hidden_size)
        self.conv_1d = ConvParameters(config.lru_width, config.conv1d_width)
        self.rg_lru = RGLRU(config)
        self.conv_width = config.conv1d_width

    def conv(self, u, positions):
        weight = self.conv_1d.weight[:, 0].float()
        out = self.conv_1d.bias.float() + weight[:, -1] * u
        for back in range(1, self.conv_width):
            past = F.pad(u, (0, 0, back, 0))[:, :u.shape[1]]
            past = torch.where((positions >= back)[..., None], past, 0.0)
            out = out + weight[:, -1 - back] * past
        return out.to(u.dtype)

    def forward(self, x, positions, block_mask):
        gate = F.gelu(self.linear_y(x), approximate="tanh")
        u = self.conv(self.linear_x(x), positions)
        h = self.rg_lru(u, positions)
        return self.linear_out(h.to(gate.dtype) * gate)


def rotate(x, positions, theta, rotary):
    """Rotary embedding of the first `rotary` dimensions; x is [batch, heads, time, head_dim]."""
    frequency = theta ** (-torch.arange(0, rotary, 2, device=x.device, dtype=torch.float32) / rotary)
    angle = positions[:, None, :, None].float() * frequency
    cos, sin = angle.cos(), angle.sin()
    left, right, rest = x.float().split([rotary // 2, rotary // 2, x.shape[-1] - rotary], -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin, rest], -1).to(x.dtype)


def window_attention(q, k, v, positions, window):
    """Local attention in blocks of `window` queries, each with the block before: exact, any device.

    A query sees the keys of its own document from `window` steps back up to itself, window + 1 in
    all, as in Google's implementation.
    """
    batch, heads, time, width = q.shape
    blocks = -(-time // window)
    pad = blocks * window - time
    q, k, v = (F.pad(tensor, (0, 0, 0, pad)) for tensor in (q, k, v))
    reach = F.pad(torch.minimum(positions, positions.new_tensor(window)), (0, pad))

    def with_previous(tensor):
        tensor = tensor.view(batch, 1, blocks, window, width)
        return torch.cat([F.pad(tensor, (0, 0, 0, 0, 1, 0))[:, :, :-1], tensor], 3)

    def block_first(tensor):  # [batch, heads, blocks, n, width] to [batch * blocks, heads, n, width]
        return tensor.transpose(1, 2).flatten(0, 1)

    q = block_first(q.view(batch, heads, blocks, window, width))
    k, v = block_first(with_previous(k)), block_first(with_previous(v))
    query = torch.arange(window, device=q.device)[:, None] + window
    distance = query - torch.arange(2 * window, device=q.device)
    mask = (distance >= 0) & (distance <= reach.reshape(batch * blocks, 1, window, 1))
    out = F.scaled_dot_product_attention(q, k.expand(-1, heads, -1, -1),
                                         v.expand(-1, heads, -1, -1), attn_mask=mask)
    out = out.view(batch, blocks, heads, window, width).transpose(1, 2)
    return out.reshape(batch, heads, blocks * window, width)[:, :, :time]


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.window, self.theta = config.attention_window_size, config.rope_theta
        self.rotary = int(config.head_dim * config.partial_rotary_factor)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.head_dim, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, positions, block_mask):
        batch, time, _ = x.shape
        q = self.q_proj(x).view(batch, time, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, time, 1, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, time, 1, self.head_dim).transpose(1, 2)
        q = rotate(q, positions, self.theta, self.rotary)
        k = rotate(k, positions, self.theta, self.rotary)
        if block_mask is None:
            out = window_attention(q, k, v, positions, self.window)
        else:
            from torch.nn.attention.flex_attention import flex_attention
            out = flex_attention(q, k, v, block_mask=block_mask, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, time, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.mlp_width)
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_width)
        self.down_proj = nn.Linear(config.mlp_width, config.hidden_size)

    def forward(self, x):
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config, index, dropout):
        super().__init__()
        recurrent = config.block_type(index) == "recurrent"
        self.temporal_pre_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.temporal_block = (RecurrentBlock if recurrent else Attention)(config)
        self.channel_pre_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp_block = MLP(config)
        self.dropout = dropout

    def forward(self, x, positions, block_mask):
        mixed = self.temporal_block(self.temporal_pre_norm(x), positions, block_mask)
        x = x + F.dropout(mixed, self.dropout, self.training)
        return x + F.dropout(self.mlp_block(self.channel_pre_norm(x)), self.dropout, self.training)


class Backbone(nn.Module):
    def __init__(self, config, dropout):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i, dropout) for i in range(config.num_hidden_layers))
        self.final_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        # The released models scale by the root rounded to bfloat16; so do all who load them.
        self.scale = float(torch.tensor(math.sqrt(config.hidden_size)).bfloat16())
        self.dropout = dropout

    def forward(self, tokens, positions, block_mask=None):
        x = self.embed_tokens(tokens).float() * self.scale
        x = F.dropout(x, self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, positions, block_mask)
        return self.final_norm(x)


class Griffin(nn.Module):
    def __init__(self, config, dropout=0.0):
        super().__init__()
        self.config = config
        self.model = Backbone(config, dropout)

    def head(self, hidden):
        cap = self.config.logits_soft_cap
        return cap * torch.tanh(F.linear(hidden, self.model.embed_tokens.weight).float() / cap)

    def forward(self, tokens, positions, block_mask=None):
        return self.head(self.model(tokens, positions, block_mask))

    def initialise(self, seed):
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        out_std = math.sqrt(2.0 / config.num_hidden_layers)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("embed_tokens.weight"):
                    std = 1.0 / math.sqrt(config.hidden_size)
                elif name.endswith("conv_1d.weight"):
                    std = math.sqrt(0.5 / config.conv1d_width)
                elif name.endswith("gate_weight"):
                    std = math.sqrt(0.1 / parameter.shape[1])
                elif name.endswith("recurrent_param"):
                    # Decay per step at an open gate between 0.9 and 0.999, uniform in the square.
                    square = torch.rand(parameter.shape, generator=generator) * (0.999**2 - 0.81) + 0.81
                    parameter.copy_(torch.log(torch.expm1(-0.5 * torch.log(square))))
                    continue
                elif name.endswith(("linear_out.weight", "o_proj.weight", "down_proj.weight")):
                    std = out_std / math.sqrt(parameter.shape[1])
                elif parameter.dim() == 2 and name.endswith(".weight"):
                    std = 1.0 / math.sqrt(parameter.shape[1])
                else:  # norms and biases
                    parameter.zero_()
                    continue
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        return self


def document_positions(tokens, bos):
    """Distance to the last bos of the row (or to the row's start) for tokens [batch, time]."""
    index = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    starts = torch.where(tokens == bos, index, 0)
    return index - torch.cummax(starts, 1).values


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())
