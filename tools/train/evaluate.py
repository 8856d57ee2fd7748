"""Bits per byte of a model on held-out text.

    python evaluate.py --model FOLDER --corpus valid.txt.xz [--dtype float32] [--draft FOLDER]

Each document is read once from bos to eos: every token is predicted from all the document's text
before it, through the recurrent state, and from a local attention window. Nothing passes between
documents. Counted are the nats of all text tokens and of eos, over the bytes of the text.
"""

import argparse
import math
import os

import torch
import torch.nn.functional as F

from data import BOS, encode_documents, read_documents, text_bytes
from model import Griffin, GriffinConfig, document_positions


def pack(documents, size):
    """Whole documents, longest first, joined into rows of at most `size` tokens where they fit."""
    rows = []
    for document in sorted(documents, key=len, reverse=True):
        for row in rows:
            if sum(map(len, row)) + len(document) <= size:
                row.append(document)
                break
        else:
            rows.append([document])
    return [torch.tensor([int(t) for document in row for t in document]) for row in rows]


@torch.no_grad()
def total_nats(model, documents, device, dtype=torch.float32, row_size=32768, head_rows=4096):
    """Sum of -log p over all tokens but bos, and the number of those tokens."""
    nats, count = 0.0, 0
    for row in pack(documents, row_size):
        tokens = row.to(device)[None]
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            hidden = model.model(tokens, document_positions(tokens, BOS))[0]
            for start in range(0, len(row) - 1, head_rows):
                targets = tokens[0, start + 1:start + 1 + head_rows]
                logits = model.head(hidden[start:start + len(targets)]).float()
                targets = torch.where(targets == BOS, -100, targets)
                nats += F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum").item()
                count += int((targets >= 0).sum())
    return nats, count


@torch.no_grad()
def acceptance(model, draft, documents, device, length=1024):
    """How often speculative sampling at temperature 1 would keep a drafted token: sum of min(p, q)
    on average over the positions in the first `length` tokens of each document; and how often
    both models' likeliest tokens agree, which is the rate of greedy decoding."""
    kept, agreed, count = 0.0, 0, 0
    for document in documents:
        tokens = torch.tensor([int(token) for token in document[:length]], device=device)[None]
        positions = document_positions(tokens, BOS)
        p, q = (m(tokens, positions)[0].softmax(-1) for m in (model, draft))
        kept += torch.minimum(p, q).sum().item()
        agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
        count += len(p)
    return kept / count, agreed / count


def bits_per_byte(nats, size):
    return nats / math.log(2) / size


def load_model(folder, device="cpu"):
    from safetensors.torch import load_file
    model = Griffin(GriffinConfig.from_folder(folder)).to(device).eval()
    weights = load_file(os.path.join(folder, "model.safetensors"), device=device)
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--limit", type=int, help="only the first documents")
    parser.add_argument("--draft", help="report this model's acceptance instead")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    texts = read_documents(args.corpus)[:args.limit]
    documents = encode_documents(texts, os.path.join(args.model, "tokenizer.model"))
    model = load_model(args.model, device)
    if args.draft:
        kept, agreed = acceptance(model, load_model(args.draft, device), documents, device)
        print(f"drafted tokens kept when sampling: {kept:.3f}, when greedy: {agreed:.3f}")
        return
    nats, count = total_nats(model, documents, device, getattr(torch, args.dtype))
    size = text_bytes(texts)
    print(f"{len(texts)} documents, {size} bytes, {count} tokens, {nats / count:.4f} nats per token, "
          f"{bits_per_byte(nats, size):.4f} bits per byte")


if __name__ == "__main__":
    main()
