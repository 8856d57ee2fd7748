"""Write a model folder in the Hugging Face format of RecurrentGemma, weights in bfloat16."""

import json
import os
import shutil

import torch
from safetensors.torch import save_file

from data import BOS, EOS, PAD


def config_values(config):
    return {
        "architectures": ["RecurrentGemmaForCausalLM"],
        "model_type": "recurrent_gemma",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_window_size": config.attention_window_size,
        "block_types": list(config.block_types),
        "bos_token_id": BOS,
        "conv1d_width": config.conv1d_width,
        "eos_token_id": EOS,
        "final_w_init_variance_scale": 2.0 / config.num_hidden_layers,
        "head_dim": config.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": config.hidden_size,
        "intermediate_size": 2 * config.mlp_width,
        "logits_soft_cap": config.logits_soft_cap,
        "lru_width": config.lru_width,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": 1,
        "pad_token_id": PAD,
        "partial_rotary_factor": config.partial_rotary_factor,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": config.vocab_size,
        "w_init_variance_scale": 0.01,
    }


def write_json(folder, name, values):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
        file.write("\n")


def export(weights, config, tokenizer_file, folder):
    os.makedirs(folder, exist_ok=True)
    write_json(folder, "config.json", config_values(config))
    write_json(folder, "generation_config.json", {
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
        "do_sample": True, "temperature": 0.8, "top_p": 0.95})
    write_json(folder, "tokenizer_config.json", {
        "tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False,
        "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
        "mask_token": "<mask>", "clean_up_tokenization_spaces": False})
    if os.path.abspath(tokenizer_file) != os.path.abspath(os.path.join(folder, "tokenizer.model")):
        shutil.copyfile(tokenizer_file, os.path.join(folder, "tokenizer.model"))
    # Written beside and renamed, so that a run cut short never leaves half a file.
    path = os.path.join(folder, "model.safetensors")
    save_file({name: value.detach().to("cpu", torch.bfloat16).contiguous()
               for name, value in weights.items()}, path + ".part", metadata={"format": "pt"})
    os.replace(path + ".part", path)
