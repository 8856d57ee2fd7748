#!/usr/bin/env python3
"""The same figures for transformers, on the same checkpoint, machine and threads. Prints one JSON object.

Usage: transformers_bench.py MODEL_DIR [--threads N] [--prompt-tokens N] [--decode-tokens N] [--dtype float32]
"""
import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=32)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    vocab = model.config.vocab_size
    out = {"dtype": options.dtype, "threads": options.threads, "decode_tokens_per_second": {}}

    @torch.inference_mode()
    def prefill():
        tokens = torch.randint(4, vocab, (1, options.prompt_tokens))
        begin = time.perf_counter()
        model(tokens, use_cache=True)
        return options.prompt_tokens / (time.perf_counter() - begin)

    @torch.inference_mode()
    def decode(batch):
        tokens = torch.randint(4, vocab, (batch, 8))
        common = dict(do_sample=False, eos_token_id=None, pad_token_id=0, attention_mask=torch.ones_like(tokens))
        begin = time.perf_counter()
        model.generate(tokens, min_new_tokens=1, max_new_tokens=1, **common)
        middle = time.perf_counter()
        model.generate(tokens, min_new_tokens=options.decode_tokens, max_new_tokens=options.decode_tokens, **common)
        decode_seconds = (time.perf_counter() - middle) - (middle - begin)
        return batch * (options.decode_tokens - 1) / decode_seconds

    out["prefill_tokens_per_second"] = max(prefill() for _ in range(options.repeats))
    for batch in options.batches:
        out["decode_tokens_per_second"][str(batch)] = max(decode(batch) for _ in range(options.repeats))
    print(json.dumps(out))


if __name__ == "__main__":
    main()
