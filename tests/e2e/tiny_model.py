"""A random RecurrentGemma with a tokenizer, for trees without a bundled model."""

import importlib.util
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
VOCABULARY = 400


def write(folder):
    """Writes the checkpoint and returns its folder. Needs torch, safetensors and sentencepiece."""
    import sentencepiece

    spec = importlib.util.spec_from_file_location("checkpoints",
                                                  ROOT / "tests" / "models" / "checkpoints.py")
    checkpoints = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checkpoints)
    # Like Gemma's: <pad> 0, <eos> 1, <bos> 2, byte fallback, no space put before a text. The text
    # that it learns from is this repository's own.
    texts = sorted(ROOT.glob("proto/reprise/v1/*.proto")) + sorted(ROOT.glob("docs/*.md"))
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(map(str, texts)), model_prefix=str(folder / "tokenizer"), model_type="bpe",
        vocab_size=VOCABULARY, pad_id=0, eos_id=1, bos_id=2, unk_id=3, byte_fallback=True,
        add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity",
        minloglevel=2)
    config = {"vocab_size": VOCABULARY, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    weights = checkpoints.random_weights(config, seed=7)
    # Flatter logits: sampled answers that differ from seed to seed and tell states apart.
    weights["model.embed_tokens.weight"] *= 0.25
    checkpoints.write(folder, config, weights)
    return folder
