"""The implementations that Reprise is compared with: transformers and the authors' package."""

import importlib.util
import sys
import types

import torch

from checkpoints import completed


def transformers_model(config, weights):
    """RecurrentGemmaForCausalLM in float32 with these weights."""
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    config = {key: value for key, value in config.items() if key != "model_type"}
    uncapped = not config.get("logits_soft_cap", 30.0)
    if uncapped:
        config["logits_soft_cap"] = 1.0  # transformers has no "off": see transformers_logits
    config = RecurrentGemmaConfig(**config, attn_implementation="eager")
    model = RecurrentGemmaForCausalLM(config).float().eval()
    state = {name: tensor.float() for name, tensor in weights.items()}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    model.uncapped = uncapped
    return model


@torch.no_grad()
def transformers_logits(model, tokens):
    """One pass without a cache, [T, vocab]."""
    ids = torch.tensor([tokens])
    hidden = model.model(ids, use_cache=False).last_hidden_state
    if model.uncapped:
        return model.lm_head(hidden)[0]
    return model(ids, use_cache=False).logits[0]


@torch.no_grad()
def transformers_greedy(model, tokens, count):
    ids = torch.tensor([tokens])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        suppress_tokens=None,
    )
    return out[0, len(tokens) :].tolist()


def authors_package():
    """recurrentgemma.torch without the JAX half that the package's __init__ wants; None if absent."""
    if "recurrentgemma" not in sys.modules:
        spec = importlib.util.find_spec("recurrentgemma")
        if spec is None:
            return None
        package = types.ModuleType("recurrentgemma")
        package.__path__ = list(spec.submodule_search_locations)
        torch_half = types.ModuleType("recurrentgemma.torch")
        torch_half.__path__ = [package.__path__[0] + "/torch"]
        sys.modules.update({"recurrentgemma": package, "recurrentgemma.torch": torch_half})
    try:
        from recurrentgemma import common
        from recurrentgemma.torch import griffin
    except ImportError:  # its own dependencies
        return None
    return common, griffin


def authors_can(config):
    """Whether the authors' package has every option of the config."""
    c = completed(config)
    fixed = {
        "num_key_value_heads": 1,
        "conv1d_width": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "head_dim": c["hidden_size"] // c["num_attention_heads"],
    }
    # _apply_rope cuts the head in two halves, then rotates pairs of the first: 4 must divide it.
    return all(c[key] == value for key, value in fixed.items()) and c["head_dim"] % 4 == 0


def authors_model(config, weights):
    common, griffin = authors_package()
    c = completed(config)
    kind = common.TemporalBlockType
    blocks = [
        kind.RECURRENT if c["block_types"][i % len(c["block_types"])] == "recurrent" else kind.ATTENTION
        for i in range(c["num_hidden_layers"])
    ]
    model = griffin.Griffin(
        common.GriffinConfig(
            vocab_size=c["vocab_size"],
            width=c["hidden_size"],
            mlp_expanded_width=c["intermediate_size"] // 2,
            num_heads=c["num_attention_heads"],
            block_types=tuple(blocks),
            embeddings_scale_by_sqrt_dim=True,
            attention_window_size=c["attention_window_size"],
            logits_soft_cap=c["logits_soft_cap"] or 0.0,
            lru_width=c["lru_width"],
        ),
        gradient_checkpointing=False,
    )
    model.load_state_dict(authors_names(c, weights), strict=True)
    return model.float().eval()


def authors_names(c, weights):
    w = {name.removeprefix("model."): tensor.float() for name, tensor in weights.items()}
    out = {
        "embedder.input_embedding": w["embed_tokens.weight"],
        "final_norm.scale": w["final_norm.weight"],
    }
    for i in range(c["num_hidden_layers"]):
        old, new = f"layers.{i}.", f"blocks.{i}."
        mlp, temporal = old + "mlp_block.", old + "temporal_block."
        for norm in ("temporal_pre_norm", "channel_pre_norm"):
            out[f"{new}{norm}.scale"] = w[f"{old}{norm}.weight"]
        up = [w[mlp + "gate_proj.weight"].T, w[mlp + "up_proj.weight"].T]
        bias = [w[mlp + "gate_proj.bias"], w[mlp + "up_proj.bias"]]
        out[new + "mlp_block.ffw_up.w"] = torch.stack(up)
        out[new + "mlp_block.ffw_up.b"] = torch.stack(bias)[:, None, None, :]
        for part in ("weight", "bias"):
            out[f"{new}mlp_block.ffw_down.{part}"] = w[f"{mlp}down_proj.{part}"]
        if temporal + "linear_x.weight" in w:
            block = new + "recurrent_block."
            for linear in ("linear_x", "linear_y", "linear_out"):
                for part in ("weight", "bias"):
                    out[f"{block}{linear}.{part}"] = w[f"{temporal}{linear}.{part}"]
            out[block + "conv_1d.w"] = w[temporal + "conv_1d.weight"][:, 0, :].T
            out[block + "conv_1d.b"] = w[temporal + "conv_1d.bias"]
            out[block + "rg_lru.a_param"] = w[temporal + "rg_lru.recurrent_param"]
            for ours, theirs in (("input_gate", "input_gate"), ("recurrent_gate", "a_gate")):
                out[f"{block}rg_lru.{theirs}.w"] = w[f"{temporal}rg_lru.{ours}_weight"]
                out[f"{block}rg_lru.{theirs}.b"] = w[f"{temporal}rg_lru.{ours}_bias"]
        else:
            block = new + "attention_block."
            for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "final")):
                out[f"{block}proj_{theirs}.weight"] = w[f"{temporal}{ours}_proj.weight"]
            out[block + "proj_final.bias"] = w[temporal + "o_proj.bias"]
    return out


@torch.no_grad()
def authors_logits(model, tokens, prompt=None):
    """[T, vocab]: the first `prompt` tokens in one pass, the rest one by one through the cache."""
    prompt = len(tokens) if prompt is None else prompt
    ids = torch.tensor([tokens])
    positions = torch.arange(len(tokens))[None]
    logits, cache = model(ids[:, :prompt], positions[:, :prompt])
    parts = [logits]
    for t in range(prompt, len(tokens)):
        logits, cache = model(ids[:, t : t + 1], positions[:, t : t + 1], cache)
        parts.append(logits)
    return torch.cat(parts, 1)[0]
