#!/usr/bin/env python3
"""Writes a RecurrentGemma checkpoint with random bf16 weights: about 130 M parameters, or the shape of
RecurrentGemma-2B.

Usage: make_checkpoint.py OUT_DIR [--size 130m|2b] [--seed N]
"""
import argparse

import torch
from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM


SIZES = {
    "130m": dict(vocab_size=32000, hidden_size=768, lru_width=768, num_hidden_layers=15, intermediate_size=2 * 2304,
                 num_attention_heads=12, num_key_value_heads=1, attention_window_size=1024),
    "2b": dict(vocab_size=256000, hidden_size=2560, lru_width=2560, num_hidden_layers=26, intermediate_size=2 * 7680,
               num_attention_heads=10, num_key_value_heads=1, attention_window_size=2048),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=SIZES, default="130m")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_default_dtype(torch.bfloat16)
    model = RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**SIZES[options.size]))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
    model.save_pretrained(options.out)


if __name__ == "__main__":
    main()
