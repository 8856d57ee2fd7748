"""Logits of Reprise beside those of transformers, of the authors' package and of a double reference.

Run with pytest; REPRISE_BUILD_DIR names the build folder (default: build).
"""

import json
import os
import pathlib
import random
import struct
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the parity tests need torch")
pytest.importorskip("transformers", reason="the parity tests need transformers")

sys.path.insert(0, os.path.dirname(__file__))
import checkpoints
import oracles
import reference_griffin

torch.set_num_threads(1)  # the models are small; more threads only wait for each other

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("REPRISE_BUILD_DIR", ROOT / "build"))
TOOL = BUILD / "tests" / "models" / "forward_tool"
TOLERANCE = 1e-5  # max |a - b| / max |b|

# What differs from checkpoints.BASE. "_dtype" and "_shards" are about the files.
CASES = {
    "base": {},
    "attention_first": {"block_types": ["attention", "recurrent"], "num_hidden_layers": 5},
    "recurrent_only": {"block_types": ["recurrent"]},
    "attention_only": {"block_types": ["attention"], "num_hidden_layers": 2},
    "pattern_longer_than_layers": {"num_hidden_layers": 2},
    "one_head": {"num_attention_heads": 1},
    "kv_heads_2": {"num_key_value_heads": 2},
    "kv_heads_null": {"num_key_value_heads": None},
    "lru_wide": {"lru_width": 80},
    "lru_narrow": {"lru_width": 20},
    "conv_1": {"conv1d_width": 1},
    "conv_2": {"conv1d_width": 2},
    "conv_8": {"conv1d_width": 8},
    "untied": {"tie_word_embeddings": False},
    "cap_off": {"logits_soft_cap": 0.0},
    "cap_5": {"logits_soft_cap": 5.0},
    "attention_bias": {"attention_bias": True},
    "head_dim_20": {"head_dim": 20},
    "gelu_erf": {"hidden_activation": "gelu"},
    "silu": {"hidden_activation": "silu"},
    "relu": {"hidden_activation": "relu"},
    "rotary_none": {"partial_rotary_factor": 0.0},
    "rotary_all": {"partial_rotary_factor": 1.0},
    "rotary_third": {"partial_rotary_factor": 0.34, "head_dim": 12},
    "theta_300": {"rope_theta": 300.0},
    "rope_parameters": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 77.0,
            "partial_rotary_factor": 1.0,
        }
    },
    "eps_large": {"rms_norm_eps": 0.01},
    "mlp_wide": {"intermediate_size": 400},
    "hidden_odd": {"hidden_size": 52, "vocab_size": 131, "num_attention_heads": 1},
    "hidden_wide": {"hidden_size": 160, "num_attention_heads": 5, "lru_width": 120},
    "bfloat16": {"_dtype": "bfloat16"},
    "float16": {"_dtype": "float16"},
    "mixed_dtypes": {"_dtype": "mixed"},
    "sharded": {"_shards": 3},
    "sharded_bfloat16_untied": {"_shards": 2, "_dtype": "bfloat16", "tie_word_embeddings": False},
    "everything": {
        "block_types": ["attention", "recurrent", "recurrent"],
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "lru_width": 72,
        "conv1d_width": 3,
        "tie_word_embeddings": False,
        "logits_soft_cap": 12.0,
        "attention_bias": True,
        "head_dim": 24,
        "hidden_activation": "gelu",
        "partial_rotary_factor": 0.25,
        "rope_theta": 1234.0,
        "_dtype": "bfloat16",
        "_shards": 2,
    },
}


def run_tool(**request):
    if not TOOL.exists():
        pytest.fail(f"{TOOL} is missing: build the target forward_tool, or set REPRISE_BUILD_DIR")
    done = subprocess.run([TOOL], input=json.dumps(request).encode(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout, json.loads(done.stderr)


def our_logits(folder, tokens, vocab, **options):
    out, _ = run_tool(folder=str(folder), tokens=tokens, **options)
    return torch.frombuffer(bytearray(out), dtype=torch.float32).view(len(tokens), vocab)


def error(ours, oracle):
    oracle = oracle.double()
    return ((ours.double() - oracle).abs().max() / oracle.abs().max()).item()


def make(tmp_path, case, seed=1, **changes):
    config = dict(checkpoints.BASE, **dict(CASES[case], **changes))
    dtype, shards = config.pop("_dtype", "float32"), config.pop("_shards", 1)
    weights = checkpoints.random_weights(config, seed)
    stored = checkpoints.write(tmp_path, config, weights, dtype, shards)
    return config, stored


def random_chunks(total, seed):
    rng, chunks = random.Random(seed), []
    while sum(chunks) < total:
        chunks.append(min(rng.choice([1, 1, 2, 3, 7, 30, 63, 64, 65]), total - sum(chunks)))
    return chunks


def report(record_property, case, **errors):
    for name, value in errors.items():
        record_property(name, value)
        print(f"  {case}: {name} {value:.1e}")
        assert value < TOLERANCE, (case, name, value)


@pytest.mark.parametrize("case", CASES)
def test_prompt_within_the_window(tmp_path, case, record_property):
    config, weights = make(tmp_path, case)
    tokens = checkpoints.random_tokens(config, 150, 2)
    ours = our_logits(tmp_path, tokens, config["vocab_size"])
    model = oracles.transformers_model(config, weights)
    double = reference_griffin.logits(checkpoints.completed(config), weights, tokens)
    assert double.abs().max() > 3, "the logits are not lively enough to prove anything"
    errors = {
        "transformers": error(ours, oracles.transformers_logits(model, tokens)),
        "reference": error(ours, double),
    }
    if oracles.authors_package() and oracles.authors_can(config):
        theirs = oracles.authors_model(config, weights)
        errors["authors"] = error(ours, oracles.authors_logits(theirs, tokens))
    report(record_property, case, **errors)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("window", [1, 24, 64])
def test_prompt_longer_than_the_window(tmp_path, case, window, record_property):
    config, weights = make(tmp_path, case, attention_window_size=window)
    tokens = checkpoints.random_tokens(config, 150, 3)
    chunks = random_chunks(len(tokens), seed=window)
    ours = our_logits(tmp_path, tokens, config["vocab_size"], chunks=chunks)
    double = reference_griffin.logits(checkpoints.completed(config), weights, tokens)
    # transformers counts the query's own key in the window, the authors do not. Asked for one more
    # key and without its cache, it computes the same function.
    one_more = dict(config, attention_window_size=window + 1)
    model = oracles.transformers_model(one_more, weights)
    errors = {
        "reference": error(ours, double),
        "transformers_window_plus_1": error(ours, oracles.transformers_logits(model, tokens)),
    }
    if oracles.authors_package() and oracles.authors_can(config):
        theirs = oracles.authors_model(config, weights)
        errors["authors"] = error(ours, oracles.authors_logits(theirs, tokens))
        stepped = oracles.authors_logits(theirs, tokens, prompt=70)
        errors["authors_70_then_steps"] = error(ours, stepped)
    report(record_property, case, **errors)


def test_the_authors_package_took_part():
    if oracles.authors_package() is None:
        pytest.skip("recurrentgemma (torch half) cannot be imported: compared without the authors")
    assert sum(oracles.authors_can(dict(checkpoints.BASE, **case)) for case in CASES.values()) >= 14


def test_transformers_window_is_one_key_shorter(tmp_path):
    """The difference that docs/architectures.md describes; fails when transformers changes."""
    config, weights = make(tmp_path, "base", attention_window_size=24)
    tokens = checkpoints.random_tokens(config, 60, 4)
    ours = our_logits(tmp_path, tokens, config["vocab_size"])
    theirs = oracles.transformers_logits(oracles.transformers_model(config, weights), tokens)
    assert error(ours[:24], theirs[:24]) < TOLERANCE
    assert error(ours[24:], theirs[24:]) > 100 * TOLERANCE


def test_other_names_and_ignored_tensors(tmp_path):
    """The bare model's names, layer_types, sliding_window, and tensors that nobody reads."""
    config = dict(checkpoints.BASE)
    weights = checkpoints.random_weights(config, 5)
    checkpoints.write(tmp_path / "a", config, weights)
    other = dict(config, layer_types=["linear_attention", "linear_attention", "sliding_attention"])
    other["sliding_window"] = config["attention_window_size"]
    other["block_types"] = other["attention_window_size"] = None
    bare = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    bare["mtp.extra"] = torch.zeros(3, dtype=torch.int64)
    checkpoints.write(tmp_path / "b", other, {k: v for k, v in bare.items() if k != "mtp.extra"})
    from safetensors.torch import save_file

    save_file(bare, tmp_path / "b" / "model.safetensors")
    tokens = checkpoints.random_tokens(config, 40, 6)
    a, _ = run_tool(folder=str(tmp_path / "a"), tokens=tokens)
    b, facts = run_tool(folder=str(tmp_path / "b"), tokens=tokens)
    assert a == b
    assert facts["unused_tensors"] == ["mtp.extra"]


def test_sharding_changes_neither_bits_nor_fingerprint(tmp_path):
    config = dict(checkpoints.BASE)
    weights = checkpoints.random_weights(config, 7)
    tokens = checkpoints.random_tokens(config, 80, 8)
    results = []
    for shards in (1, 2, 5):
        folder = tmp_path / str(shards)
        checkpoints.write(folder, config, weights, shards=shards)
        out, facts = run_tool(folder=str(folder), tokens=tokens)
        results.append((out, facts["fingerprint"]))
    assert results[0] == results[1] == results[2]
    weights["model.layers.0.mlp_block.up_proj.bias"][0] += 0.25
    checkpoints.write(tmp_path / "changed", config, weights)
    assert run_tool(folder=str(tmp_path / "changed"), tokens=tokens)[1]["fingerprint"] != results[0][1]


BUNDLED = sorted(path.parent for path in (ROOT / "models" / "bundled").glob("*/config.json"))


def bundled_weights(folder):
    from safetensors.torch import load_file

    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(file))
    config = json.loads((folder / "config.json").read_text())
    if config.get("tie_word_embeddings", True):
        weights.pop("lm_head.weight", None)
    return config, weights


def bundled_prompts(folder, config):
    """A few real prompts through the folder's own tokenizer, else random ids."""
    texts = ["Once upon a time", "The little girl went to the", "def main():", "1, 2, 3, 4,"]
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompts = [tokenizer(text)["input_ids"] for text in texts]
    except Exception:  # no tokenizer in the folder, or one that transformers does not read
        prompts = [checkpoints.random_tokens(config, 12, seed) for seed in range(4)]
    return [prompt for prompt in prompts if prompt]


@pytest.mark.parametrize("folder", BUNDLED, ids=lambda path: path.name)
def test_bundled_models(folder, record_property):
    config, weights = bundled_weights(folder)
    if config["model_type"] != "recurrent_gemma":
        pytest.skip(f"no oracle for {config['model_type']}")
    oracle_config = {key: value for key, value in config.items() if key in ORACLE_KEYS}
    model = oracles.transformers_model(oracle_config, weights)
    window = config.get("attention_window_size", 2048)
    for i, prompt in enumerate(bundled_prompts(folder, config)):
        count = min(200, window - len(prompt))
        out, _ = run_tool(folder=str(folder), tokens=prompt, greedy=count)
        ours = list(struct.unpack(f"<{count}i", out))
        text = prompt + ours
        theirs = oracles.transformers_logits(model, text)
        # Each of our tokens is the oracle's first choice after the text so far: the greedy texts are
        # one, by induction. One prompt also goes through generate() with its cache.
        assert theirs[len(prompt) - 1 : -1].argmax(-1).tolist() == ours, f"texts part: {prompt}"
        if i == 0:
            assert oracles.transformers_greedy(model, prompt, count) == ours
        value = error(our_logits(folder, text, config["vocab_size"]), theirs)
        report(record_property, folder.name, transformers=value)


ORACLE_KEYS = set(checkpoints.BASE) | {"head_dim", "rope_parameters"}
