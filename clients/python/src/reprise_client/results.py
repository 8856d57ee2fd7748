"""Answers as a whole."""

from __future__ import annotations

import dataclasses
import math
from typing import List

from reprise_client.v1 import generation_pb2 as pb


@dataclasses.dataclass
class Result:
    """A whole answer."""
    text: str
    ids: List[int]
    logprobs: List[pb.TokenLogprob]
    # Reason, usage, timeline, seed and, with a session, the commit.
    finished: pb.Finished


@dataclasses.dataclass
class Score:
    """How probable the model finds a text. The first token of a new sequence is not scored; after a
    beginning-of-sequence token that leaves the whole text."""
    tokens: int
    bytes: int
    bits: float  # -log2 of the joint probability
    logprobs: List[pb.TokenLogprob]

    @property
    def bits_per_token(self) -> float:
        return self.bits / self.tokens if self.tokens else 0.0

    @property
    def bits_per_byte(self) -> float:
        return self.bits / self.bytes if self.bytes else 0.0

    @property
    def perplexity(self) -> float:
        return float(2.0**self.bits_per_token)

    @classmethod
    def of(cls, finished: pb.Finished) -> Score:
        logprobs = list(finished.prompt_logprobs)
        bits = -math.fsum(token.logprob for token in logprobs) / math.log(2.0)
        return cls(len(logprobs), sum(len(token.token) for token in logprobs), bits, logprobs)


@dataclasses.dataclass
class Fed:
    """What feed() did."""
    token_count: int  # tokens that the session has now
    computed: int  # of the prompt's tokens, those that were fed now
    skipped: int  # those that the session had already, from an earlier try
