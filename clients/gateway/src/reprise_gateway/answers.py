"""Answers of the server as they run, and as the parts of OpenAI's bodies."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, AsyncIterator, Dict, List, Optional, Sequence, Tuple, Union

from reprise_client import AsyncChoices, AsyncClient, AsyncGeneration, GenerateOptions
from reprise_client.results import Result
from reprise_client.v1 import generation_pb2 as pb
from reprise_gateway.sampling import Common, seeds_of

_FINISH = {
    pb.FINISH_REASON_MAX_TOKENS: "length",
    pb.FINISH_REASON_DRAINED: "length",  # cut short; the session has what there is
}

# Of a running answer: new tokens, or its end.
Event = Union[pb.Tokens, pb.Finished]


@dataclasses.dataclass
class Answer:
    """One choice that runs."""
    index: int
    session: str


@dataclasses.dataclass
class Run:
    """One request to the server, with the choices that come of it."""
    answers: List[Answer]
    running: Union[AsyncGeneration, AsyncChoices]

    async def results(self) -> List[Result]:
        """All of its choices, whole."""
        if isinstance(self.running, AsyncChoices):
            return await self.running.results()
        return [await self.running.result()]

    async def events(self) -> AsyncIterator[Tuple[Answer, Event]]:
        """Its choices' events as they come."""
        if isinstance(self.running, AsyncChoices):
            async for choice, event in self.running:
                yield self.answers[choice], event
            return
        async for tokens in self.running:
            yield self.answers[0], tokens
        assert self.running.finished is not None
        yield self.answers[0], self.running.finished


def start(client: AsyncClient, prompt: Union[str, List[int]], sessions: Sequence[str],
          options: GenerateOptions, best_of: int, first_index: int) -> List[Run]:
    """Sends one prompt for an answer to each of `sessions`, which are all empty or none. Without
    sessions that is one request, whose prompt is computed once; each session has a turn of its own."""
    answers = [Answer(first_index + i, session) for i, session in enumerate(sessions)]
    if len(answers) == 1 and best_of <= 1:
        return [Run(answers, client.generate(prompt, session=sessions[0], **options))]
    if not any(sessions):
        choices = client.stream_choices(prompt, len(answers), best_of=best_of, **options)
        return [Run(answers, choices)]
    return [Run([answer], client.generate(prompt, session=answer.session, **own))
            for answer, own in zip(answers, seeds_of(options, len(answers)))]


async def sessions_for(client: AsyncClient, common: Common, count: int) -> List[str]:
    """The session of each choice: none, the one that was asked for, or a fork for each."""
    if common.fork:
        return [(await client.fork(common.fork, common.session if count == 1 else "")).name
                for _ in range(count)]
    if common.session:
        return [(await client.session(common.session)).name]
    return [""] * count


async def _stop(tasks: Sequence["asyncio.Future[Any]"], runs: Sequence[Run]) -> None:
    """Ends those that still run, and waits for all."""
    for task, run in zip(tasks, runs):
        if not task.done():
            task.cancel()
            run.running.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def results(runs: Sequence[Run]) -> List[List[Result]]:
    """All whole answers of each. If one fails, or this is cancelled, none goes on."""
    tasks = [asyncio.ensure_future(run.results()) for run in runs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _stop(tasks, runs)


async def merged(runs: Sequence[Run]) -> AsyncIterator[Tuple[Answer, Event]]:
    """The events of all as they come, each choice with its end. If one fails, none goes on."""
    queue: "asyncio.Queue[Union[None, Tuple[Answer, Event], Exception]]" = asyncio.Queue(maxsize=16)

    async def read(run: Run) -> None:
        try:
            async for event in run.events():
                await queue.put(event)
            await queue.put(None)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.ensure_future(read(run)) for run in runs]
    try:
        running = len(runs)
        while running > 0:
            event = await queue.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                running -= 1
            else:
                yield event
    finally:
        await _stop(tasks, runs)


def finish_reason(finished: pb.Finished) -> str:
    return _FINISH.get(finished.reason, "stop")


def usage(finished: Sequence[pb.Finished], prompts: int = 1) -> Dict[str, Any]:
    """The sum over choices; each prompt is counted once. `finished` has the choices of the first
    prompt, then those of the second..."""
    each = max(1, len(finished) // prompts)
    first_choices = [f.usage for f in finished[::each]]
    prompt = sum(u.prompt_tokens for u in first_choices)
    completion = sum(f.usage.completion_tokens + f.usage.discarded_tokens for f in finished)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(min(u.cached_tokens, u.prompt_tokens) for u in first_choices)
        },
        # Tokens that the session had already, whose state was read and not computed.
        "restored_tokens": sum(u.restored_tokens for u in first_choices),
    }


def session_fields(answer: Answer, finished: pb.Finished) -> Dict[str, Any]:
    """What a choice says of its session."""
    if not answer.session:
        return {}
    return {"session": answer.session, "session_version": finished.commit.version,
            "session_tokens": finished.commit.token_count,
            "already_committed": finished.commit.already_committed}


def token_text(token: bytes) -> str:
    """A token alone need not be UTF-8; OpenAI writes it so."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def completion_logprobs(tokens: Sequence[pb.TokenLogprob], offset: int,
                        first: Optional[bytes] = None) -> Dict[str, Any]:
    """The `logprobs` of a completion. `first` is a token without one that comes before; `offset`
    its place in the text, in characters."""
    names: List[str] = []
    values: List[Optional[float]] = []
    tops: List[Optional[Dict[str, float]]] = []
    offsets: List[int] = []
    bytes_so_far = b""
    if first is not None:
        names, values, tops, offsets = [token_text(first)], [None], [None], [offset]
        bytes_so_far = first
    for token in tokens:
        names.append(token_text(token.token))
        values.append(token.logprob)
        top: Dict[str, float] = {}
        for other in token.top:  # best first, and several tokens may look alike
            top.setdefault(token_text(other.token), other.logprob)
        tops.append(top or {names[-1]: token.logprob})
        offsets.append(offset + len(bytes_so_far.decode(errors="ignore")))
        bytes_so_far += token.token
    return {"tokens": names, "token_logprobs": values, "top_logprobs": tops,
            "text_offset": offsets}


def chat_logprobs(tokens: Sequence[pb.TokenLogprob], top: int) -> Dict[str, Any]:
    """The `logprobs` of a chat completion."""

    def one(token: pb.TokenLogprob) -> Dict[str, Any]:
        return {"token": token_text(token.token), "logprob": token.logprob,
                "bytes": list(token.token)}

    return {
        "content": [{**one(token), "top_logprobs": [one(other) for other in token.top[:top]]}
                    for token in tokens],
        "refusal": None,
    }
