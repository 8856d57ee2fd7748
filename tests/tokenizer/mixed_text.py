"""A large text of many scripts, symbols, spaces, code and English, the same on every run."""

import argparse as _some_code
import inspect
import pydoc_data.topics
import random
import unicodedata

# First and last code point of what a word of that script is made from. None is younger than
# Unicode 14, which PCRE2 10.42 knows.
SCRIPTS = {
    "ascii": (0x21, 0x7E), "latin-1": (0xA1, 0xFF), "latin-ext": (0x100, 0x24F),
    "ipa": (0x250, 0x2AF), "greek": (0x370, 0x3FF), "cyrillic": (0x400, 0x52F),
    "armenian": (0x531, 0x58A), "hebrew": (0x591, 0x5F4), "arabic": (0x600, 0x6FF),
    "syriac": (0x700, 0x74F), "thaana": (0x780, 0x7B1), "nko": (0x7C0, 0x7FF),
    "devanagari": (0x900, 0x97F), "bengali": (0x980, 0x9FE), "gurmukhi": (0xA01, 0xA76),
    "gujarati": (0xA81, 0xAFF), "tamil": (0xB82, 0xBFA), "telugu": (0xC00, 0xC7F),
    "kannada": (0xC80, 0xCF2), "malayalam": (0xD00, 0xD7F), "sinhala": (0xD81, 0xDF4),
    "thai": (0xE01, 0xE5B), "lao": (0xE81, 0xECD), "tibetan": (0xF00, 0xFDA),
    "myanmar": (0x1000, 0x109F), "georgian": (0x10A0, 0x10FF), "hangul-jamo": (0x1100, 0x11FF),
    "ethiopic": (0x1200, 0x139F), "cherokee": (0x13A0, 0x13FD), "khmer": (0x1780, 0x17F9),
    "mongolian": (0x1800, 0x18AA), "latin-additional": (0x1E00, 0x1EFF),
    "greek-extended": (0x1F00, 0x1FFE), "punctuation": (0x2010, 0x205E),
    "super-sub": (0x2070, 0x209C), "currency": (0x20A0, 0x20C0), "marks": (0x20D0, 0x20F0),
    "letterlike": (0x2100, 0x218B), "arrows-maths": (0x2190, 0x22FF),
    "technical": (0x2300, 0x23FF), "enclosed": (0x2460, 0x24FF), "boxes": (0x2500, 0x25FF),
    "dingbats": (0x2600, 0x27BF), "cjk-punctuation": (0x3000, 0x303F),
    "hiragana": (0x3041, 0x309F), "katakana": (0x30A0, 0x30FF), "bopomofo": (0x3105, 0x312F),
    "cjk-compat": (0x3200, 0x33FF), "cjk-a": (0x3400, 0x4DBF), "han": (0x4E00, 0x9FFC),
    "yi": (0xA000, 0xA48C), "vai": (0xA500, 0xA62B), "hangul": (0xAC00, 0xD7A3),
    "private": (0xE000, 0xE0FF), "cjk-compat-ideographs": (0xF900, 0xFAD9),
    "presentation": (0xFB00, 0xFDFF), "half-full": (0xFF01, 0xFFEE),
    "linear-b": (0x10000, 0x100FA), "gothic": (0x10330, 0x1034A), "deseret": (0x10400, 0x1044F),
    "cuneiform": (0x12000, 0x12399), "hieroglyphs": (0x13000, 0x1342E),
    "music": (0x1D100, 0x1D1E8), "maths-letters": (0x1D400, 0x1D7FF),
    "emoji": (0x1F300, 0x1F6D7), "emoji-2": (0x1F900, 0x1F9FF), "cjk-b": (0x20000, 0x2A6DD),
}
SPACES = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
NEARLY_SPACES = "\u180e\u200b\u200c\u200d\u2060\ufeff\xad"
CONTROLS = "".join(map(chr, [*range(0, 32), 127, *range(0x80, 0xA0)]))
CONTRACTIONS = ["it's", "I'll", "WE'RE", "they've", "can't", "I'M", "he'D", "x'\u017f", "o'clock",
                "'tis", "\u2019s", "'LL", "''s", "' s"]
FAMILY = "\U0001F468\u200d\U0001F469\u200d\U0001F467"
CLUSTERS = [FAMILY, "\U0001F44D\U0001F3FD", "\U0001F1E9\U0001F1EA", "\u2764\ufe0f\u200d\U0001F525",
            "1\ufe0f\u20e3", "e\u0301", "\u1100\u1161\u11a8", "\u0915\u094d\u0937\u093f",
            "a\u0328\u0301", "q\u0307\u0323", "\u212b", "\ufb03", "\u00c5", "\u0130", "\u1e9e"]
SPECIALS = ["<|endoftext|>", "<s>", "</s>", "<unk>", "<bos>", "<|im_start|>", "<0x41>", "<mask>"]


def assigned(first, last):
    return [chr(c) for c in range(first, last + 1)
            if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


ALPHABETS = {name: assigned(*bounds) for name, bounds in SCRIPTS.items()}


def word(rng):
    kind = rng.random()
    if kind < 0.55:
        return "".join(rng.choices(rng.choice(list(ALPHABETS.values())), k=rng.randint(1, 9)))
    if kind < 0.65:
        return "".join(rng.choices("0123456789\u0663\u096b\u2167\u00bd\uff15", k=rng.randint(1, 12)))
    if kind < 0.72:
        return "".join(rng.choices(SPACES + NEARLY_SPACES, k=rng.randint(1, 6)))
    if kind < 0.76:
        return rng.choice(" \n\t") * rng.randint(2, 40)
    if kind < 0.80:
        return rng.choice(CONTROLS)
    if kind < 0.86:
        return rng.choice(CONTRACTIONS)
    if kind < 0.92:
        return "".join(rng.choices(CLUSTERS, k=rng.randint(1, 4)))
    if kind < 0.95:
        return rng.choice(SPECIALS)
    return "".join(rng.choices(sum(ALPHABETS.values(), []), k=rng.randint(1, 6)))


def mixed_documents(count=400, words=120, seed=1):
    """Documents of random words, with and without spaces between them."""
    rng = random.Random(seed)
    return ["".join(word(rng) + rng.choice([" ", " ", "", "\n", "  "]) for _ in range(words))
            for _ in range(count)]


def prose_documents():
    """English and code from the standard library."""
    return list(pydoc_data.topics.topics.values()) + [inspect.getsource(_some_code)]


def edge_documents():
    documents = ["", " ", "  ", "\n", "a", " a", "a ", "  a", "\u2581", "\u2581a", " \u2581 a",
                 "\x00", "a\x00b", "\ufeff", "\u0301", "\u0301a", " \u0301", "\n\n\n", " \n ",
                 "\r\n\r\n", "\t\t x", "a" * 5000, " " * 5000, "\n" * 3000, "0" * 3000,
                 "\U0001F600" * 700, "ab " * 2000, "\u00e9" * 999, "\u4e2d" * 999]
    documents += SPECIALS + [f"a{s}b" for s in SPECIALS] + [f" {s} b" for s in SPECIALS]
    documents += ["".join(SPECIALS), " ".join(SPECIALS), "<<s>>", "<s", "<|endoftext|", "<s><s>"]
    documents += CONTRACTIONS + CLUSTERS
    documents += [f"a{c}b" for c in SPACES + NEARLY_SPACES + CONTROLS]
    documents += [f" {c} " for c in SPACES + NEARLY_SPACES + CONTROLS]
    return documents
