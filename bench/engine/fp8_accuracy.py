#!/usr/bin/env python3
"""What --weight-format=fp8 costs a model: its logits beside those of the checkpoint's weights, on the same device
and after the same tokens. Reported are the relative error of the logits, how often the best token is the same, the
Kullback-Leibler divergence, mean nats per token of the text, and how much of a greedy continuation stays the same.

Usage: fp8_accuracy.py MODEL_DIR --tool build/bench/tests/models/forward_tool [--text FILE] [--device cuda]
The text's documents end with a line <|endoftext|>; it may be packed with xz. Without one, tokens are random.
"""
import argparse
import json
import lzma
import random
import subprocess

import numpy as np


def run(options, weight_format, tokens, **more):
    request = {"folder": options.model, "device": options.device, "weight_format": weight_format, "tokens": tokens}
    done = subprocess.run([options.tool], input=json.dumps(request | more).encode(), capture_output=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr.decode())
    return done.stdout, json.loads(done.stderr)


def documents(options, vocab):
    """Token ids of each document, at most --tokens of them."""
    if options.text is None:
        generator = random.Random(3)
        return [[generator.randrange(4, vocab) for _ in range(options.tokens)] for _ in range(options.documents)]
    import sentencepiece
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=f"{options.model}/tokenizer.model")
    opened = lzma.open if options.text.endswith(".xz") else open
    with opened(options.text, "rt", encoding="utf-8") as file:
        texts = [text.strip() for text in file.read().split("<|endoftext|>")]
    return [([tokenizer.bos_id()] + tokenizer.encode(text))[:options.tokens]
            for text in [text for text in texts if text][:options.documents]]


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class Totals:
    def __init__(self):
        self.error = self.size = self.largest = self.divergence = 0.0
        self.same = self.rows = self.predicted = 0
        self.nats = {"checkpoint": 0.0, "fp8": 0.0}

    def add(self, tokens, whole, fp8):
        self.error += float(np.square(fp8 - whole).sum())
        self.size += float(np.square(whole).sum())
        self.largest = max(self.largest, float(np.abs(fp8 - whole).max()))
        self.same += int((fp8.argmax(-1) == whole.argmax(-1)).sum())
        self.rows += len(tokens)
        logs = {"checkpoint": log_softmax(whole), "fp8": log_softmax(fp8)}
        self.divergence += float((np.exp(logs["checkpoint"]) * (logs["checkpoint"] - logs["fp8"])).sum())
        for name, log in logs.items():
            self.nats[name] -= float(log[np.arange(len(tokens) - 1), tokens[1:]].sum())
        self.predicted += len(tokens) - 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--tool", default="build/bench/tests/models/forward_tool")
    parser.add_argument("--text")
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=1024, help="of a document, at most")
    parser.add_argument("--greedy", type=int, default=500)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    with open(f"{options.model}/config.json", encoding="utf-8") as file:
        vocab = json.load(file)["vocab_size"]

    totals = Totals()
    texts = documents(options, vocab)
    for tokens in texts:
        logits, facts = {}, {}
        for name in ["checkpoint", "fp8"]:
            raw, facts[name] = run(options, name, tokens)
            logits[name] = np.frombuffer(raw, dtype=np.float32).reshape(len(tokens), vocab).astype(np.float64)
        totals.add(np.array(tokens), logits["checkpoint"], logits["fp8"])
    print(f"{len(texts)} documents, {totals.rows} tokens, on {options.device}; weights "
          f"{facts['checkpoint']['weight_bytes']:,} bytes ({facts['checkpoint']['dtype']}), "
          f"fp8 {facts['fp8']['weight_bytes']:,}")
    print(f"relative error of the logits {np.sqrt(totals.error / totals.size):.5f}, "
          f"largest difference {totals.largest:.3f}")
    print(f"the same best token after {100 * totals.same / totals.rows:.2f}% of the tokens, "
          f"divergence {totals.divergence / totals.rows:.5f} nats")
    whole, fp8 = (totals.nats[name] / totals.predicted for name in ["checkpoint", "fp8"])
    print(f"nats per token {whole:.4f}, fp8 {fp8:.4f} ({fp8 - whole:+.4f}); "
          f"perplexity {np.exp(whole):.3f}, fp8 {np.exp(fp8):.3f}")

    prompt = texts[0][:32]
    texts = {name: np.frombuffer(run(options, name, prompt, greedy=options.greedy)[0], dtype=np.int32)
             for name in ["checkpoint", "fp8"]}
    apart = np.nonzero(texts["checkpoint"] != texts["fp8"])[0]
    followed = prompt + texts["checkpoint"].tolist()
    raw, _ = run(options, "fp8", followed)
    rows = np.frombuffer(raw, dtype=np.float32).reshape(len(followed), vocab)[len(prompt) - 1:-1]
    same = int((rows.argmax(-1) == texts["checkpoint"]).sum())
    print(f"greedy: of {options.greedy} tokens that the checkpoint's weights choose fp8 would choose {same}; "
          f"left alone, its text is another one from token {apart[0] if len(apart) else options.greedy} on")


if __name__ == "__main__":
    main()
