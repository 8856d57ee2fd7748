#!/usr/bin/env python3
"""The engine's logits on a CUDA device beside those of transformers in float32 and in bfloat16, on the same
weights: the relative error over all positions of a random text, and how often the best token is the same.
With --greedy, also the text that each continues a prompt with.

Usage: logits_agreement.py MODEL_DIR --tool build/bench/tests/models/forward_tool [--tokens 512] [--greedy 500]
"""
import argparse
import json
import random
import struct
import subprocess

import torch
from transformers import AutoModelForCausalLM


def ours(tool, request):
    run = subprocess.run([tool], input=json.dumps(request | {"device": "cuda"}).encode(), capture_output=True)
    if run.returncode != 0:
        raise SystemExit(run.stderr.decode())
    return run.stdout


@torch.inference_mode()
def theirs(folder, dtype, tokens):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).cuda().eval()
    logits = model(torch.tensor([tokens], device="cuda"), use_cache=False).logits[0].float()
    del model
    torch.cuda.empty_cache()
    return logits


def compare(name, logits, expected):
    error = ((logits - expected).norm() / expected.norm()).item()
    same = (logits.argmax(-1) == expected.argmax(-1)).float().mean().item()
    print(f"{name}: relative error {error:.5f}, largest difference {(logits - expected).abs().max().item():.4f}, "
          f"the same best token at {100 * same:.2f}% of {len(expected)} positions", flush=True)


@torch.inference_mode()
def follow(folder, prompt, chosen):
    """How far each chosen token is from the best one by float32 logits, the text before it being the same."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).cuda().eval()
    logits = model(torch.tensor([prompt + chosen], device="cuda"), use_cache=False).logits[0].float()
    rows = logits[len(prompt) - 1:-1]
    gaps = rows.max(-1).values - rows[torch.arange(len(chosen)), torch.tensor(chosen, device=rows.device)]
    for i in torch.nonzero(gaps).flatten().tolist():
        print(f"  token {i}: {chosen[i]}, float32 prefers {rows[i].argmax().item()} by {gaps[i].item():.5f}")
    print(f"greedy: {int((gaps == 0).sum())} of {len(chosen)} tokens are the best by float32, "
          f"the largest gap is {gaps.max().item():.5f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--tool", default="build/bench/tests/models/forward_tool")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--greedy", type=int, default=0)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    with open(f"{options.model}/config.json") as file:
        vocab = json.load(file)["vocab_size"]
    generator = random.Random(3)
    tokens = [generator.randrange(4, vocab) for _ in range(options.tokens)]
    chunks = [options.tokens // 2] + [1] * 8
    chunks.append(options.tokens - sum(chunks))
    request = {"folder": options.model, "tokens": tokens, "chunks": chunks}
    raw = ours(options.tool, request)
    logits = torch.frombuffer(bytearray(raw), dtype=torch.float32).view(options.tokens, vocab).cuda()
    expected = theirs(options.model, torch.float32, tokens)
    compare("reprise on CUDA, prefill and decode steps", logits, expected)
    compare("transformers in bfloat16", theirs(options.model, torch.bfloat16, tokens), expected)
    if options.greedy > 0:
        prompt = tokens[:32]
        raw = ours(options.tool, request | {"tokens": prompt, "chunks": [len(prompt)], "greedy": options.greedy})
        follow(options.model, prompt, list(struct.unpack(f"<{options.greedy}i", raw)))


if __name__ == "__main__":
    main()
