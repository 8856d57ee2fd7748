"""What completions and chat completions have in common in their bodies."""

from __future__ import annotations

import dataclasses
from typing import Dict, List, Optional

from reprise_client import GenerateOptions
from reprise_gateway.errors import BadField
from reprise_gateway.fields import Fields

MAX_INT32 = 2**31 - 1
SEEDS = 2**64


@dataclasses.dataclass
class Common:
    """`options` are those of generate(); the rest is the gateway's business."""
    options: GenerateOptions
    n: int
    stream: bool
    include_usage: bool
    session: str
    fork: str


def read_common(fields: Fields, max_choices: int) -> Common:
    """Raises BadField. Ranges of what is passed on are the server's to check."""
    options: GenerateOptions = {
        "model": fields.string("model"),
        "temperature": fields.number("temperature", 1.0),
        "top_p": fields.optional_number("top_p"),
        "presence_penalty": fields.number("presence_penalty", 0.0),
        "frequency_penalty": fields.number("frequency_penalty", 0.0),
        "logit_bias": _logit_bias(fields),
        "seed": None,
        "stop": fields.strings("stop"),
        # Beyond OpenAI's.
        "top_k": fields.integer("top_k", 0, MAX_INT32) or 0,
        "min_p": fields.number("min_p", 0.0),
        "repetition_penalty": fields.optional_number("repetition_penalty"),
        "ignore_eos": fields.boolean("ignore_eos"),
        "request_id": fields.string("request_id"),
    }
    seed = fields.integer("seed", -SEEDS // 2, SEEDS - 1)
    if seed is not None:
        options["seed"] = seed % SEEDS
    durability = fields.string("durability")
    if durability not in ("", "async", "sync"):
        raise BadField("durability", 'must be "async" or "sync"')
    if durability:
        options["durability"] = durability
    stream = fields.boolean("stream")
    stream_options = Fields(fields.object("stream_options"))
    include_usage = stream_options.boolean("include_usage")
    stream_options.ignore("include_obfuscation")
    stream_options.done()
    fields.ignore("user", "store", "metadata", "service_tier", "safety_identifier",
                  "prompt_cache_key")
    n = fields.integer("n", 1, max_choices) or 1
    session, fork = fields.string("session"), fields.string("fork")
    if session and n > 1:
        raise BadField("n", "must be 1 with `session`: a session has one continuation; use `fork`")
    return Common(options, n, stream, include_usage, session, fork)


def _logit_bias(fields: Fields) -> Optional[Dict[int, float]]:
    bias: Dict[int, float] = {}
    for key, value in fields.object("logit_bias").items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadField("logit_bias", "values must be numbers")
        if not key.isascii() or not key.isdigit() or len(key) > 10 or int(key) > MAX_INT32:
            raise BadField("logit_bias", "keys must be token ids")
        try:
            bias[int(key)] = float(value)
        except OverflowError:
            raise BadField("logit_bias", "a value is too large") from None
    return bias or None


def seeds_of(options: GenerateOptions, count: int) -> List[GenerateOptions]:
    """The options of each of several answers: other seeds, or none."""
    several: List[GenerateOptions] = []
    for i in range(count):
        own = options.copy()
        seed = options.get("seed")
        if seed is not None:
            own["seed"] = seed_of_choice(seed, i)
        if i > 0 and own.get("request_id"):
            own["request_id"] = f"{own['request_id']}.{i}"
        several.append(own)
    return several


def seed_of_choice(seed: int, choice: int) -> int:
    """Choice 0 has the request's seed, the others ones that are far from it: the finalizer of
    SplitMix64 (Steele et al. 2014), so that neighbouring seeds do not share answers."""
    if choice == 0:
        return seed
    mixed = (seed + choice * 0x9E3779B97F4A7C15) % SEEDS
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % SEEDS
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % SEEDS
    return mixed ^ mixed >> 31
