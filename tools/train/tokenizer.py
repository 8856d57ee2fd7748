"""Train the SentencePiece tokenizer of the bundled models on a sample of the training corpus.

    python tokenizer.py --corpus train.txt.xz --out tokenizer.model [--kind bpe|unigram]

The ids follow RecurrentGemma: pad 0, eos 1, bos 2, unk 3. Text is kept byte for byte: no Unicode
folding, no merging of spaces, no dummy space in front, unknown characters as <0xNN> bytes.
Line breaks are pieces of their own (as in Gemma), because the trainer never sees a line's end.
"""

import argparse
import os
import tempfile

import numpy as np
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2

from data import read_documents

VOCAB_SIZE = 8192


def write_sample(documents, path, megabytes, seed):
    """Whole documents in random order until the sample is full; one paragraph per line."""
    order = np.random.default_rng(seed).permutation(len(documents))
    budget = megabytes * 1_000_000
    with open(path, "w", encoding="utf-8") as out:
        for index in order:
            for line in documents[index].split("\n"):
                # A piece must not depend on where a paragraph starts, so the sample keeps no
                # leading blanks, which the trainer would take for part of a word.
                line = line.strip()
                if line:
                    out.write(line + "\n")
            budget -= len(documents[index].encode("utf-8"))
            if budget <= 0:
                return


def write_without_paths(trained, out):
    """The trainer notes where its files lay; that is nobody's business and differs from run to run."""
    model = sentencepiece_model_pb2.ModelProto()
    with open(trained, "rb") as file:
        model.ParseFromString(file.read())
    model.trainer_spec.ClearField("input")
    model.trainer_spec.ClearField("model_prefix")
    with open(out, "wb") as file:
        file.write(model.SerializeToString())


def train(corpus, out, kind, megabytes, seed, threads):
    documents = read_documents(corpus)
    with tempfile.TemporaryDirectory() as folder:
        sample = os.path.join(folder, "sample.txt")
        write_sample(documents, sample, megabytes, seed)
        spm.SentencePieceTrainer.train(
            input=sample,
            model_prefix=os.path.join(folder, "tokenizer"),
            model_type=kind,
            vocab_size=VOCAB_SIZE,
            byte_fallback=True,
            character_coverage=0.9998,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_digits=True,
            max_sentence_length=65536,
            control_symbols=["<mask>"],  # never produced; id 4 as in Gemma
            user_defined_symbols=["\n", "\n\n"],
            pad_id=0, eos_id=1, bos_id=2, unk_id=3,
            pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
            num_threads=threads,
            minloglevel=1,
        )
        write_without_paths(os.path.join(folder, "tokenizer.model"), out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--kind", default="bpe", choices=["bpe", "unigram"])
    parser.add_argument("--megabytes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", help="corpus file on which to report bytes per token")
    args = parser.parse_args()
    train(args.corpus, args.out, args.kind, args.megabytes, args.seed, args.threads)

    processor = spm.SentencePieceProcessor(model_file=args.out)
    documents = read_documents(args.measure or args.corpus)[:500]
    tokens = [processor.encode(text) for text in documents]
    assert all(processor.decode(ids) == text for ids, text in zip(tokens, documents)), "text changed"
    size = sum(len(text.encode("utf-8")) for text in documents)
    count = sum(len(ids) for ids in tokens)
    print(f"{args.kind}: {processor.vocab_size()} pieces, {size / count:.4f} bytes per token")


if __name__ == "__main__":
    main()
