"""Requests from Python's arguments. Nothing here talks to a server."""

from __future__ import annotations

import datetime
import functools
import secrets
import uuid
from typing import (TYPE_CHECKING, BinaryIO, Iterable, Iterator, Mapping, Optional, Sequence,
                    TypedDict, Union, cast)

from google.protobuf import duration_pb2
from reprise_client import names
from reprise_client.v1 import generation_pb2 as pb

if TYPE_CHECKING:
    from typing_extensions import Unpack

Prompt = Union[str, Sequence[int], None]
Ttl = Union[None, float, datetime.timedelta]
SnapshotData = Union[bytes, BinaryIO, Iterable[bytes]]

_PIECE_BYTES = 256 * 1024


class GenerateOptions(TypedDict, total=False):
    """What a call of generate() may say beside its prompt. Fields without a word here are those of
    SamplingParams, StopConditions and OutputOptions in generation.proto."""
    model: str
    max_tokens: Optional[int]  # None: the server's default; 0: only feed the prompt
    temperature: float  # 0 is greedy
    top_k: int
    top_p: Optional[float]
    min_p: float
    repetition_penalty: Optional[float]
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Optional[Mapping[int, float]]
    # One seed, prompt and model give one answer. None: the session's generator goes on; without a
    # session one is drawn, and reported in `finished`.
    seed: Optional[int]
    stop: Union[str, Sequence[str]]
    stop_tokens: Sequence[int]
    ignore_eos: bool
    logprobs: bool
    top_logprobs: int
    prompt_logprobs: bool
    omit_text: bool
    add_bos: Optional[bool]
    session_version: int  # refuse with Conflict unless the session has this version; 0 = any
    request_id: str  # of the turn; empty: the client makes one
    durability: str  # "async", "sync" or "every_n_tokens"; empty: the server's default
    checkpoint_tokens: int  # with "every_n_tokens": tokens between checkpoints; 0 = 256
    sync_replicas: Optional[int]  # replicas of the store that must have the turn
    cache_marks: Sequence[int]  # places in the prompt that the prefix cache should keep
    no_prefix_cache: bool
    priority: str  # "low", "normal" or "high"
    # With a session and request_id: an interrupted prompt is kept as far as it came.
    keep_partial: bool


def build_request(prompt: Prompt, session: str,
                  **options: Unpack[GenerateOptions]) -> pb.GenerateRequest:
    """The request for the arguments of generate(). Raises ValueError for an unknown durability or priority."""
    request = pb.GenerateRequest(
        model=options.get("model", ""), session=names.session(session),
        session_version=options.get("session_version", 0), request_id=options.get("request_id", ""),
        add_bos=options.get("add_bos"), checkpoint_tokens=options.get("checkpoint_tokens", 0),
        sync_replicas=options.get("sync_replicas"), cache_marks=options.get("cache_marks", ()),
        no_prefix_cache=options.get("no_prefix_cache", False),
        keep_partial=options.get("keep_partial", False))
    if isinstance(prompt, str):
        request.text = prompt
    elif prompt is not None:
        request.tokens.ids.extend(prompt)
    request.sampling.CopyFrom(
        pb.SamplingParams(temperature=options.get("temperature", 0.0),
                          top_k=options.get("top_k", 0), top_p=options.get("top_p"),
                          min_p=options.get("min_p", 0.0),
                          repetition_penalty=options.get("repetition_penalty"),
                          presence_penalty=options.get("presence_penalty", 0.0),
                          frequency_penalty=options.get("frequency_penalty", 0.0),
                          logit_bias=options.get("logit_bias"), seed=options.get("seed")))
    stop = options.get("stop", ())
    request.stop.CopyFrom(
        pb.StopConditions(max_tokens=options.get("max_tokens"),
                          stop_strings=[stop] if isinstance(stop, str) else stop,
                          stop_tokens=options.get("stop_tokens", ()),
                          ignore_eos=options.get("ignore_eos", False)))
    request.output.CopyFrom(
        pb.OutputOptions(logprobs=options.get("logprobs", False),
                         top_logprobs=options.get("top_logprobs", 0),
                         prompt_logprobs=options.get("prompt_logprobs", False),
                         omit_text=options.get("omit_text", False)))
    if options.get("durability"):
        request.durability = durability_of(options["durability"])
    if options.get("priority"):
        request.priority = cast(pb.Priority,
                                pb.Priority.Value(f"PRIORITY_{options['priority'].upper()}"))
    return request


def durability_of(name: str) -> pb.Durability:
    """ValueError for a name that is none."""
    return cast(pb.Durability, pb.Durability.Value(f"DURABILITY_{name.upper()}"))


def make_repeatable(request: pb.GenerateRequest) -> None:
    """Fills in what a second try needs to be the same turn, or the same answer."""
    if request.session:
        request.request_id = request.request_id or new_request_id()
    elif request.sampling.temperature > 0 and not request.sampling.HasField("seed"):
        request.sampling.seed = new_seed()


def new_request_id() -> str:
    return uuid.uuid4().hex


def new_seed() -> int:
    return secrets.randbits(63)


def duration(ttl: Ttl) -> Optional[duration_pb2.Duration]:
    if ttl is None:
        return None
    message = duration_pb2.Duration()
    message.FromTimedelta(
        ttl if isinstance(ttl, datetime.timedelta) else datetime.timedelta(seconds=ttl))
    return message


def pieces(data: SnapshotData) -> Iterator[bytes]:
    """`data` in pieces of at most a message's size."""
    blocks: Iterable[bytes]
    if isinstance(data, (bytes, bytearray, memoryview)):
        blocks = [bytes(data)]
    elif hasattr(data, "read"):
        blocks = iter(functools.partial(cast(BinaryIO, data).read, _PIECE_BYTES), b"")
    else:
        blocks = data
    for block in blocks:
        for start in range(0, len(block), _PIECE_BYTES):
            yield bytes(block[start:start + _PIECE_BYTES])
