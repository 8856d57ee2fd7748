"""Our tokenizers against PyPI's `tokenizers` and `sentencepiece`: token for token, and back.

REPRISE_BUILD_DIR names the build folder that holds tokenizer_tool.
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

import pytest
import sentencepiece
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

sys.path.insert(0, os.path.dirname(__file__))
from mixed_text import edge_documents, mixed_documents, prose_documents  # noqa: E402

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "tokenizer"
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+"
          r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


class Tool:
    """One tokenizer_tool on one folder."""

    def __init__(self, folder):
        build = os.environ.get("REPRISE_BUILD_DIR")
        if not build:
            pytest.skip("REPRISE_BUILD_DIR is not set")
        tools = [p for p in pathlib.Path(build).rglob("tokenizer_tool") if os.access(p, os.X_OK)
                 and p.is_file()]
        assert tools, f"no tokenizer_tool under {build}"
        self.process = subprocess.Popen([tools[0], folder], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, encoding="utf-8")
        self.loaded = json.loads(self.process.stdout.readline())
        assert "error" not in self.loaded, self.loaded

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        assert "error" not in reply, reply
        return reply

    def close(self):
        self.process.stdin.close()
        assert self.process.wait() == 0


def first_difference(ours, theirs):
    for i, (a, b) in enumerate(zip(ours, theirs)):
        if a != b:
            return f"at {i}: {ours[max(0, i - 3):i + 6]!r} instead of {theirs[max(0, i - 3):i + 6]!r}"
    return f"lengths {len(ours)} and {len(theirs)}"


def compare(tool, encode, decode, documents, **options):
    """Encodes and decodes each document with both."""
    size = seconds = 0
    for document in documents:
        ours = tool.ask(text=document, **options)
        theirs = encode(document)
        if ours["ids"] != theirs:
            pytest.fail(f"ids of {document[:200]!r}: {first_difference(ours['ids'], theirs)}")
        size += len(document.encode())
        seconds += ours["seconds"]
        back = tool.ask(ids=theirs)
        if back["text"] != decode(theirs):
            pytest.fail(f"text of {document[:200]!r}: "
                        f"{first_difference(back['text'], decode(theirs))}")
        assert back["streamed"] == back["text"]
    return size, seconds


def compare_random_ids(tool, decode, vocab_size, rounds=3000, favoured=()):
    rng = random.Random(7)
    for _ in range(rounds):
        ids = [rng.choice(favoured) if favoured and rng.random() < 0.6 else rng.randrange(vocab_size)
               for _ in range(rng.randint(1, 24))]
        reply = tool.ask(ids=ids)
        assert reply["text"] == decode(ids), ids
        assert reply["streamed"] == reply["text"], ids


@pytest.fixture(scope="session")
def documents():
    return mixed_documents() + prose_documents() + edge_documents()


@pytest.fixture(scope="session")
def training_lines():
    lines = "\n".join(prose_documents()[:60] + mixed_documents(40, seed=2)).splitlines()
    return [line for line in lines if 0 < len(line) < 2000]


def byte_level(lines, pre_tokenizer, specials, normalizer=None, size=3000, **model_options):
    tokenizer = Tokenizer(models.BPE(**model_options))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def split(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def sentencepiece_like(lines, normalizer, pre_tokenizer, decoder, fuse_unk=True):
    """BPE on characters with a byte for every character that it does not know."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=fuse_unk))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # to train on words
    specials = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=2500, special_tokens=specials + [f"<0x{b:02X}>" for b in range(256)],
        limit_alphabet=300, show_progress=False))
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in specials]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer


def llama_decoder():
    return decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                              decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def build_neox(_):
    return Tokenizer.from_file(str(GOLDEN / "20B_tokenizer.json"))


def build_gpt2(lines):
    tokenizer = byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=False),
                           ["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def build_gpt2_prefix_space(lines):
    return byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=True), ["<|endoftext|>"])


def build_qwen2(lines):
    tokenizer = byte_level(lines, split(QWEN2), ["<|endoftext|>", "<|im_start|>"],
                           normalizers.NFC())
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, normalized=False),
                          AddedToken("Module", single_word=True, normalized=False),
                          AddedToken("class", single_word=True)])
    return tokenizer


def build_llama3(lines):
    tokenizer = byte_level(lines, split(LLAMA3), ["<bos>", "<|endoftext|>"])
    state = json.loads(tokenizer.to_str())
    state["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])])
    return tokenizer


def build_cl100k(lines):
    return byte_level(lines, split(CL100K), ["<|endoftext|>"])


def build_o200k(lines):
    return byte_level(lines, split(O200K), ["<|endoftext|>"])


def build_deepseek_like(lines):
    return byte_level(lines, pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[\r\n]"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s?\p{P}+"), "isolated"),
        pre_tokenizers.Split(Regex(r"[\u4e00-\u9fa5\u3040-\u30ff]+"), "isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), ["<s>", "</s>"])


def build_llama(lines):
    return sentencepiece_like(
        lines, normalizers.Sequence([normalizers.Prepend("\u2581"),
                                     normalizers.Replace(" ", "\u2581")]), None, llama_decoder())


def build_llama_metaspace(lines):
    return sentencepiece_like(lines, None,
                              pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
                              llama_decoder())


def build_metaspace(lines):
    return sentencepiece_like(lines, None, pre_tokenizers.Metaspace(), decoders.Metaspace())


def build_gemma(lines):
    return sentencepiece_like(
        lines, normalizers.Replace(" ", "\u2581"),
        pre_tokenizers.Split(" ", "merged_with_previous"),
        decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                           decoders.Fuse()]), fuse_unk=False)


def build_folding(lines):
    """Every other normalizer and pre-tokenizer."""
    return byte_level(lines, pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split("e", "merged_with_next"),
        pre_tokenizers.Split(Regex(r"[aou]+"), "removed", invert=False),
        pre_tokenizers.Split(Regex(r"\w+"), "merged_with_previous", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), ["<s>"],
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(),
                              normalizers.Lowercase(), normalizers.Strip(),
                              normalizers.Replace(Regex(r"\s{2,}"), " ")]))


def build_nfkc(lines):
    return byte_level(lines, split(QWEN2), ["<s>"],
                      normalizers.Sequence([normalizers.NFKC(), normalizers.NFD()]))


def build_no_alphabet(lines):
    """Characters that the vocabulary lacks: unknown tokens, not fused."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<unk>"], limit_alphabet=80, show_progress=False))
    return tokenizer


BUILDERS = [build_neox, build_gpt2, build_gpt2_prefix_space, build_qwen2, build_llama3,
            build_cl100k, build_o200k, build_deepseek_like, build_llama, build_llama_metaspace,
            build_metaspace, build_gemma, build_folding, build_nfkc, build_no_alphabet]


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.__name__[len("build_"):])
def test_tokenizers(builder, training_lines, documents, tmp_path, record_property):
    reference = builder(training_lines)
    reference.save(str(tmp_path / "tokenizer.json"))
    tool = Tool(tmp_path)
    assert tool.loaded["vocab_size"] == max(reference.get_vocab().values()) + 1

    def decode(ids):
        return reference.decode(ids, skip_special_tokens=True)

    reference.encode_special_tokens = True  # their text is text
    size, seconds = compare(
        tool, lambda text: reference.encode(text, add_special_tokens=False).ids, decode, documents)
    record_property("seconds_per_mb", seconds / size * 1e6)
    print(f"{builder.__name__}: {size / 1e6:.2f} MB, {seconds / size * 1e6:.3f} s/MB,"
          f" loaded in {tool.loaded['load_seconds']:.3f} s")
    reference.encode_special_tokens = False
    compare(tool, lambda text: reference.encode(text, add_special_tokens=True).ids, decode,
            edge_documents() + mixed_documents(60, seed=3), parse_special=True, add_bos=True)
    bytes_ = [i for t, i in reference.get_vocab().items() if t.startswith("<0x") or len(t) == 1]
    compare_random_ids(tool, decode, tool.loaded["vocab_size"], favoured=bytes_)
    tool.close()


def test_neox_gives_every_text_back(documents, tmp_path):
    shutil.copy(GOLDEN / "20B_tokenizer.json", tmp_path / "tokenizer.json")
    tool = Tool(tmp_path)
    for document in documents:
        text = normalizers.NFC().normalize_str(document)
        assert tool.ask(ids=tool.ask(text=document)["ids"])["text"] == text
    tool.close()


SENTENCEPIECE = {
    "bpe": {"model_type": "bpe"},
    "unigram": {"model_type": "unigram"},
    "llama": {"model_type": "bpe", "normalization_rule_name": "identity",
              "remove_extra_whitespaces": False, "split_digits": True,
              "allow_whitespace_only_pieces": True},
    "gemma": {"model_type": "bpe", "normalization_rule_name": "identity",
              "remove_extra_whitespaces": False, "add_dummy_prefix": False,
              "user_defined_symbols": ["<mask>", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581"]},
    "unigram-symbols": {"model_type": "unigram", "user_defined_symbols": ["<mask>", "the", "<bos>"],
                        "control_symbols": ["<|im_start|>"], "normalization_rule_name": "nfkc_cf"},
    "no-bytes": {"model_type": "bpe", "byte_fallback": False},
    "unigram-no-bytes": {"model_type": "unigram", "byte_fallback": False,
                         "normalization_rule_name": "identity"},
}


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_sentencepiece(name, training_lines, documents, tmp_path, record_property):
    options = {"byte_fallback": True, "vocab_size": 4000, "character_coverage": 0.98,
               "minloglevel": 2, "hard_vocab_limit": False, **SENTENCEPIECE[name]}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_lines), model_prefix=str(tmp_path / "tokenizer"), **options)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tool = Tool(tmp_path)
    assert tool.loaded["vocab_size"] == reference.vocab_size()
    size, seconds = compare(tool, reference.encode, reference.decode, documents)
    record_property("seconds_per_mb", seconds / size * 1e6)
    print(f"sentencepiece {name}: {size / 1e6:.2f} MB, {seconds / size * 1e6:.3f} s/MB,"
          f" loaded in {tool.loaded['load_seconds']:.3f} s")
    bytes_ = [i for i in range(reference.vocab_size())
              if reference.is_byte(i) or len(reference.id_to_piece(i)) == 1]
    compare_random_ids(tool, reference.decode, reference.vocab_size(), favoured=bytes_)
    assert tool.ask(text="Hi<s>", add_bos=True)["ids"] == reference.encode("Hi<s>", add_bos=True)
    with_control = tool.ask(text="Hi<s>Hi", parse_special=True)["ids"]
    assert with_control[:with_control.index(reference.bos_id())] == reference.encode("Hi")
    tool.close()
