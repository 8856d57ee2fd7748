"""Requests and answers of GenerationService."""

import dataclasses
import math
from typing import Iterator, List, Mapping, Optional, Sequence, Union

from reprise_client.errors import typed_errors
from reprise_client.v1 import generation_pb2 as pb

Prompt = Union[str, Sequence[int], None]


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
        return 2.0 ** self.bits_per_token

    @classmethod
    def of(cls, finished: pb.Finished) -> "Score":
        logprobs = list(finished.prompt_logprobs)
        bits = -math.fsum(token.logprob for token in logprobs) / math.log(2.0)
        return cls(len(logprobs), sum(len(token.token) for token in logprobs), bits, logprobs)


class Generation:
    """A running answer. Iterate over it for `Tokens` messages as they arrive, or over `texts()`, or
    wait for `result()`. After the last event `finished` is there. Not thread-safe, but `cancel()`
    may be called from another thread."""

    def __init__(self, call):
        self._call = call
        self.finished: Optional[pb.Finished] = None

    def __iter__(self) -> Iterator[pb.Tokens]:
        with typed_errors():
            for response in self._call:
                if response.HasField("finished"):
                    self.finished = response.finished
                else:
                    yield response.tokens

    def texts(self) -> Iterator[str]:
        """Pieces of the text, the part that was held back until the end included."""
        for tokens in self:
            if tokens.text:
                yield tokens.text
        if self.finished is not None and self.finished.text:
            yield self.finished.text

    def result(self) -> Result:
        """Waits for the rest of the answer; call it instead of iterating."""
        text, ids, logprobs = "", [], []
        for tokens in self:
            text += tokens.text
            ids.extend(tokens.ids)
            logprobs.extend(tokens.logprobs)
        return Result(text + self.finished.text, ids, logprobs, self.finished)

    def cancel(self) -> None:
        """Ends the answer within a step. A session keeps the tokens that were generated."""
        self._call.cancel()


def build_request(prompt: Prompt, *, session: str, model: str, max_tokens: Optional[int],
                  temperature: float, top_k: int, top_p: Optional[float], min_p: float,
                  repetition_penalty: Optional[float], presence_penalty: float,
                  frequency_penalty: float, logit_bias: Optional[Mapping[int, float]],
                  seed: Optional[int], stop: Sequence[str], stop_tokens: Sequence[int],
                  ignore_eos: bool, logprobs: bool, top_logprobs: int, prompt_logprobs: bool,
                  omit_text: bool, add_bos: Optional[bool], session_version: int, request_id: str,
                  durability: str, checkpoint_tokens: int = 0,
                  sync_replicas: Optional[int] = None) -> pb.GenerateRequest:
    """The request for the arguments of Client.generate; see there."""
    request = pb.GenerateRequest(model=model, session=session, session_version=session_version,
                                 request_id=request_id, add_bos=add_bos,
                                 checkpoint_tokens=checkpoint_tokens, sync_replicas=sync_replicas)
    if isinstance(prompt, str):
        request.text = prompt
    elif prompt is not None:
        request.tokens.ids.extend(prompt)
    request.sampling.CopyFrom(
        pb.SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                          repetition_penalty=repetition_penalty,
                          presence_penalty=presence_penalty, frequency_penalty=frequency_penalty,
                          logit_bias=logit_bias, seed=seed))
    request.stop.CopyFrom(
        pb.StopConditions(max_tokens=max_tokens, stop_strings=stop, stop_tokens=stop_tokens,
                          ignore_eos=ignore_eos))
    request.output.CopyFrom(
        pb.OutputOptions(logprobs=logprobs, top_logprobs=top_logprobs,
                         prompt_logprobs=prompt_logprobs, omit_text=omit_text))
    if durability:
        request.durability = pb.Durability.Value(f"DURABILITY_{durability.upper()}")
    return request
