"""Print unedited samples of a model folder: python sample.py --model FOLDER PROMPT [PROMPT ...]"""

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("prompts", nargs="+")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    for prompt in args.prompts:
        torch.manual_seed(args.seed)
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        # top_k=0: by default transformers would also cut to the 50 likeliest tokens.
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.tokens,
                             do_sample=True, temperature=args.temperature, top_p=args.top_p, top_k=0)
        print(tokenizer.decode(out[0], skip_special_tokens=True), "\n-----", flush=True)


if __name__ == "__main__":
    main()
