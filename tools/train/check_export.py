"""Compare a model folder as transformers loads it with this folder's own module, in float32.

    python check_export.py FOLDER [FOLDER ...]

Exits nonzero when weights are missing or left over, when the tokenizers differ, or when logits differ
by more than 1e-4 of the largest. Prompts stay shorter than the attention window, beyond which
transformers masks other keys than the models were trained with.
"""

import os
import sys

import sentencepiece as spm
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import BOS
from evaluate import load_model
from model import document_positions, parameter_count

TOLERANCE = 1e-4
PROMPTS = [
    "Once upon a time there was a poor woodcutter who lived at the edge of a great forest.",
    '"I never saw the like of it," said the captain, and he laughed.\n\nThe boy said nothing; he '
    "looked out over the grey water--it was 1872, and the winter had come early.",
    "T\u00e9m\u00e9raire   \u4e2d\u6587 \U0001f600  two  spaces\n\n\nthree lines",
]


@torch.no_grad()
def check(folder):
    theirs, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                        output_loading_info=True)
    theirs.eval()
    problems = [key for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]]
    for key in problems:
        print(f"{folder}: {key}: {info[key]}")
    ours = load_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = spm.SentencePieceProcessor(model_file=os.path.join(folder, "tokenizer.model"))
    worst = 0.0
    random = torch.randint(7, ours.config.vocab_size, (1, 500),
                           generator=torch.Generator().manual_seed(1))
    batches = [torch.cat([torch.tensor([[BOS]]), random], 1)]
    for prompt in PROMPTS:
        ids = [BOS] + processor.encode(prompt)
        if tokenizer(prompt).input_ids != ids or processor.decode(ids[1:]) != prompt:
            problems.append("tokenizer")
            print(f"{folder}: other tokens for {prompt!r}:\n{tokenizer(prompt).input_ids}\n{ids}")
        batches.append(torch.tensor([ids]))
    for tokens in batches:
        expected = theirs(tokens, use_cache=False).logits
        actual = ours(tokens, document_positions(tokens, BOS))
        error = ((actual - expected).abs().max() / expected.abs().max()).item()
        worst = max(worst, error)
    print(f"{folder}: {parameter_count(ours)} parameters, largest relative error {worst:.2e}")
    return not problems and worst <= TOLERANCE


if __name__ == "__main__":
    results = [check(folder) for folder in sys.argv[1:]]
    sys.exit(0 if results and all(results) else 1)
