#!/usr/bin/env python3
"""Writes a RecurrentGemma checkpoint of about 130 M parameters with random bf16 weights.

Usage: make_checkpoint.py OUT_DIR [--seed N]
"""
import argparse

import torch
from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    config = RecurrentGemmaConfig(
        vocab_size=32000, hidden_size=768, lru_width=768, num_hidden_layers=15, intermediate_size=2 * 2304,
        num_attention_heads=12, num_key_value_heads=1, attention_window_size=1024)
    model = RecurrentGemmaForCausalLM(config).to(torch.bfloat16)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
    model.save_pretrained(options.out)


if __name__ == "__main__":
    main()
