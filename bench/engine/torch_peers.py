#!/usr/bin/env python3
"""What PyTorch makes of RecurrentGemma-2B's shape on a GPU, as peers of cuda_engine_bench: transformers
as it is, transformers compiled, and the best that can be put together by hand: cuBLAS products, compiled
elementwise parts, flash attention, a Triton scan, one CUDA graph per decode step. Random bf16 weights.

Usage: torch_peers.py [--batches 1,32,256] [--prefill 8192] [--peers eager,compiled,assembled]
"""
import argparse
import math
import time

import torch
import torch.nn.functional as F

HIDDEN, LRU, MLP, HEADS, DIM, WINDOW, VOCAB, LAYERS = 2560, 2560, 7680, 10, 256, 2048, 256000, 26
BLOCKS = [("attention" if i % 3 == 2 else "recurrent") for i in range(LAYERS)]


def timed(step, repeats):
    """Seconds per call, by events, best of three."""
    for _ in range(3):
        step()
    best = math.inf
    for _ in range(3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeats):
            step()
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3 / repeats)
    return best


def report(peer, what, tokens, seconds):
    print(f"{peer:10s} {what:20s} {1e3 * seconds:9.3f} ms {tokens / seconds:12.1f} tokens/s", flush=True)


class Transformers:
    def __init__(self, compiled):
        from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM
        config = RecurrentGemmaConfig(vocab_size=VOCAB, hidden_size=HIDDEN, lru_width=LRU, num_hidden_layers=LAYERS,
                                      intermediate_size=2 * MLP, num_attention_heads=HEADS, num_key_value_heads=1,
                                      attention_window_size=WINDOW)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda"):
            self.model = RecurrentGemmaForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)
        self.forward = torch.compile(self.model.forward, mode="reduce-overhead") if compiled else self.model.forward

    @torch.inference_mode()
    def prefill(self, tokens):
        ids = torch.randint(0, VOCAB, (1, tokens), device="cuda")
        positions = torch.arange(tokens, device="cuda")
        self.forward(input_ids=ids, position_ids=positions[None], use_cache=True, logits_to_keep=1)

    @torch.inference_mode()
    def decoder(self, batch):
        # The cache lives in the modules and is made by a prefill.
        ids = torch.randint(0, VOCAB, (batch, 64), device="cuda")
        self.model(input_ids=ids, position_ids=torch.arange(64, device="cuda")[None], use_cache=True, logits_to_keep=1)
        one = torch.randint(0, VOCAB, (batch, 1), device="cuda")
        position = torch.full((1, 1), 3000, device="cuda")

        def step():
            with torch.inference_mode():
                if hasattr(torch.compiler, "cudagraph_mark_step_begin"):
                    torch.compiler.cudagraph_mark_step_begin()
                return self.forward(input_ids=one, position_ids=position, use_cache=True)

        return step


try:
    import triton
    import triton.language as tl

    @triton.jit
    def _scan(a, b, h, out, tokens, width, BLOCK: tl.constexpr):
        """h_t = a_t h_{t-1} + b_t along dimension 0 of [tokens, width], one program per BLOCK channels."""
        channels = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        mask = channels < width
        state = tl.load(h + channels, mask=mask)
        for t in range(tokens):
            at = t * width + channels
            state = tl.load(a + at, mask=mask) * state + tl.load(b + at, mask=mask)
            tl.store(out + at, state, mask=mask)
        tl.store(h + channels, state, mask=mask)
except ImportError:
    triton = None


def rms_norm(x, weight):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + weight)).to(torch.bfloat16)


def gated(x):
    gate, up = x.chunk(2, -1)
    return F.gelu(gate.float(), approximate="tanh").to(torch.bfloat16) * up


def lru_inputs(u, gates, scale):
    """a and the driven input of RG-LRU, float32."""
    i, r = torch.sigmoid(gates.float()).unbind(-2)
    log_a = scale * r
    a = torch.exp(log_a)
    return a, torch.sqrt(-torch.expm1(2 * log_a)) * i * u.float()


def join(y, h):
    return F.gelu(y.float(), approximate="tanh").to(torch.bfloat16) * h.to(torch.bfloat16)


def rotate(x, cos, sin):
    """The first half of each head turns."""
    turned, plain = x.split(DIM // 2, -1)
    low, high = turned.chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin, plain], -1)


class Assembled:
    """Weights [outputs, inputs]; products that read the same inputs are one."""

    def __init__(self):
        def matrix(*shape):
            return (torch.randn(*shape, device="cuda") / math.sqrt(shape[-1])).to(torch.bfloat16)

        self.embedding = matrix(VOCAB, HIDDEN)
        self.norms = torch.zeros(2 * LAYERS + 1, HIDDEN, device="cuda")
        self.layers = []
        for block in BLOCKS:
            if block == "recurrent":
                mixer = dict(inputs=matrix(2 * LRU, HIDDEN), conv=torch.randn(4, LRU, device="cuda") / 2,
                             gates=matrix(HEADS, LRU // HEADS, 2 * LRU // HEADS).contiguous(),
                             scale=-8 * F.softplus(torch.randn(LRU, device="cuda")), out=matrix(HIDDEN, LRU))
            else:
                mixer = dict(qkv=matrix((HEADS + 2) * DIM, HIDDEN), out=matrix(HIDDEN, HEADS * DIM))
            self.layers.append((block, mixer, matrix(2 * MLP, HIDDEN), matrix(HIDDEN, MLP)))
        compile_ = lambda f: torch.compile(f, dynamic=False)
        self.norm, self.gated, self.lru_inputs = compile_(rms_norm), compile_(gated), compile_(lru_inputs)
        self.join, self.rotate = compile_(join), compile_(rotate)
        self.conv_step, self.recur = compile_(self._conv_step), compile_(lambda a, b, h: h.mul_(a).add_(b))

    @staticmethod
    def _conv_step(x, tail, taps):
        full = torch.cat([tail, x[:, None].float()], 1)
        tail.copy_(full[:, 1:])
        return (full * taps).sum(1).to(torch.bfloat16)

    def _gates(self, u, mixer):
        blocks = torch.bmm(u.view(-1, HEADS, LRU // HEADS).transpose(0, 1), mixer["gates"]).transpose(0, 1)
        return blocks.reshape(-1, HEADS, 2, LRU // HEADS).transpose(1, 2).reshape(-1, 2, LRU)

    def _tail(self, index, residual, delta):
        _, _, up, down = self.layers[index]
        residual = residual + delta
        x = self.norm(residual, self.norms[2 * index + 1])
        return residual + F.linear(self.gated(F.linear(x, up)), down)

    def _decode(self, tokens, states, cos, sin, slot):
        residual = (self.embedding[tokens] * 50.5).float()
        for index, (block, mixer, _, _) in enumerate(self.layers):
            x = self.norm(residual, self.norms[2 * index])
            if block == "recurrent":
                y, x = F.linear(x, mixer["inputs"]).chunk(2, -1)
                tail, h = states[index]
                u = self.conv_step(x, tail, mixer["conv"])
                a, driven = self.lru_inputs(u, self._gates(u, mixer), mixer["scale"])
                delta = F.linear(self.join(y, self.recur(a, driven, h)), mixer["out"])
            else:
                qkv = F.linear(x, mixer["qkv"]).view(-1, HEADS + 2, DIM)
                q, k, v = self.rotate(qkv[:, :HEADS], cos, sin), self.rotate(qkv[:, HEADS:-1], cos, sin), qkv[:, -1:]
                keys, values = states[index]  # [batch, 1, window, dim]
                keys[:, :, slot] = k[:, :, None]
                values[:, :, slot] = v[:, :, None]
                # All heads share one key head, so they are the rows of one query block.
                attended = F.scaled_dot_product_attention(q[:, None], keys, values)
                delta = F.linear(attended.reshape(-1, HEADS * DIM), mixer["out"])
            residual = self._tail(index, residual, delta)
        x = self.norm(residual, self.norms[-1])
        return 30 * torch.tanh(F.linear(x, self.embedding).float() / 30)

    @torch.inference_mode()
    def decoder(self, batch):
        tokens = torch.randint(0, VOCAB, (batch,), device="cuda")
        cos, sin = torch.rand(2, batch, 1, DIM // 4, device="cuda").to(torch.bfloat16).unbind(0)
        slot = torch.tensor([17], device="cuda")
        states = []
        for block in BLOCKS:
            if block == "recurrent":
                states.append((torch.randn(batch, 3, LRU, device="cuda"), torch.randn(batch, LRU, device="cuda")))
            else:
                ring = lambda: torch.randn(batch, 1, WINDOW, DIM, device="cuda").to(torch.bfloat16)
                states.append((ring(), ring()))
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._decode(tokens, states, cos, sin, slot)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._decode(tokens, states, cos, sin, slot)
        self._kept = (states, tokens, cos, sin, slot)
        return graph.replay

    @torch.inference_mode()
    def prefill(self, count):
        tokens = torch.randint(0, VOCAB, (count,), device="cuda")
        residual = (self.embedding[tokens] * 50.5).float()
        cos, sin = torch.rand(2, count, 1, DIM // 4, device="cuda").to(torch.bfloat16).unbind(0)
        for index, (block, mixer, _, _) in enumerate(self.layers):
            x = self.norm(residual, self.norms[2 * index])
            if block == "recurrent":
                y, x = F.linear(x, mixer["inputs"]).chunk(2, -1)
                u = F.conv1d(F.pad(x.T[None], (3, 0)), mixer["conv"].T[:, None].to(torch.bfloat16), groups=LRU)[0].T
                a, driven = self.lru_inputs(u, self._gates(u.contiguous(), mixer), mixer["scale"])
                h, out = torch.zeros(LRU, device="cuda"), torch.empty_like(a)
                _scan[(LRU // 32,)](a, driven, h, out, count, LRU, BLOCK=32)
                delta = F.linear(self.join(y, out), mixer["out"])
            else:
                qkv = F.linear(x, mixer["qkv"]).view(-1, HEADS + 2, DIM)
                q, k, v = self.rotate(qkv[:, :HEADS], cos, sin), self.rotate(qkv[:, HEADS:-1], cos, sin), qkv[:, -1:]
                attended = torch.empty_like(q)
                for at in range(0, count, WINDOW):  # each piece sees itself and the window before it
                    begin, end = max(0, at - WINDOW), min(count, at + WINDOW)
                    rows = torch.arange(at, end, device="cuda")[:, None]
                    columns = torch.arange(begin, end, device="cuda")
                    mask = (columns <= rows) & (columns >= rows - WINDOW)
                    attended[at:end] = F.scaled_dot_product_attention(
                        q[at:end].transpose(0, 1)[None], k[begin:end].transpose(0, 1)[None].expand(-1, HEADS, -1, -1),
                        v[begin:end].transpose(0, 1)[None].expand(-1, HEADS, -1, -1), attn_mask=mask)[0].transpose(0, 1)
                delta = F.linear(attended.reshape(-1, HEADS * DIM), mixer["out"])
            residual = self._tail(index, residual, delta)
        return F.linear(self.norm(residual[-1:], self.norms[-1]), self.embedding)


def main():
    parser = argparse.ArgumentParser()
    numbers = lambda text: [int(part) for part in text.split(",") if part]
    parser.add_argument("--batches", type=numbers, default=[1, 8, 32, 64, 128, 256])
    parser.add_argument("--prefill", type=numbers, default=[8192])
    parser.add_argument("--peers", default="assembled,eager,compiled")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    torch._dynamo.config.recompile_limit = 64  # one version per batch, or later ones would run uncompiled
    for name in options.peers.split(","):
        begin = time.monotonic()
        try:
            peer = Assembled() if name == "assembled" else Transformers(compiled=name == "compiled")
            for batch in options.batches:
                report(name, f"decode batch {batch}", batch, timed(peer.decoder(batch), 3 if name == "eager" else 20))
            for count in options.prefill:
                report(name, f"prefill {count}", count, timed(lambda: peer.prefill(count), 1))
        except Exception as error:  # a peer that cannot run here is a result, too
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        print(f"{name}: {time.monotonic() - begin:.0f} s in all", flush=True)
        peer = None
        torch._dynamo.reset()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
