"""/v1/completions."""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import Any, AsyncIterator, Dict, List, Optional, Union

from reprise_client import AsyncClient
from reprise_client.results import Result
from reprise_client.v1 import generation_pb2 as pb
from reprise_gateway import answers
from reprise_gateway.answers import Answer, Run
from reprise_gateway.errors import BadField
from reprise_gateway.fields import Fields
from reprise_gateway.sampling import MAX_INT32, Common, read_common

Prompt = Union[str, List[int]]


@dataclasses.dataclass
class CompletionRequest:
    common: Common
    prompts: List[Prompt]
    best_of: int
    echo: bool
    logprobs: Optional[int]


def parse(body: Dict[str, Any], max_choices: int) -> CompletionRequest:
    """Raises BadField."""
    fields = Fields(body)
    common = read_common(fields, max_choices)
    prompts = _prompts(fields.take("prompt"))
    best_of = fields.integer("best_of", 1, max_choices) or common.n
    echo = fields.boolean("echo")
    logprobs = fields.integer("logprobs", 0, 20)
    max_tokens = fields.integer("max_tokens", 0, MAX_INT32)
    fields.refuse("suffix", "")
    fields.done()
    if best_of < common.n:
        raise BadField("best_of", "must be at least n")
    if best_of > common.n and common.stream:
        raise BadField("best_of", "cannot be more than n when streaming")
    if best_of > 1 and (common.session or common.fork) and best_of != common.n:
        raise BadField("best_of", "not with `session` or `fork`")
    if len(prompts) * best_of > max_choices:
        raise BadField("prompt", f"at most {max_choices} answers in one request")
    if len(prompts) > 1 and (common.session or common.fork):
        raise BadField("prompt", "must be one with `session` or `fork`")
    if common.stream and echo and logprobs is not None:
        raise BadField("echo", "not with both `stream` and `logprobs`")
    common.options["max_tokens"] = 16 if max_tokens is None else max_tokens
    common.options["logprobs"] = logprobs is not None
    common.options["top_logprobs"] = logprobs or 0
    common.options["prompt_logprobs"] = echo and logprobs is not None
    return CompletionRequest(common, prompts, best_of, echo, logprobs)


def _prompts(value: Any) -> List[Prompt]:
    def is_ids(v: Any) -> bool:
        return isinstance(v, list) and bool(v) and all(
            isinstance(i, int) and not isinstance(i, bool) and 0 <= i <= MAX_INT32 for i in v)

    if isinstance(value, str):
        return [value]
    if is_ids(value):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(v, str) for v in value) or all(is_ids(v) for v in value):
            return list(value)
    raise BadField("prompt", "must be a string, a list of strings, a list of token ids, or a list "
                             "of such lists")


class Completion:
    """One request that has started."""

    def __init__(self, client: AsyncClient, request: CompletionRequest, model: str):
        self._client = client
        self._request = request
        self._head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion",
                      "created": int(time.time()), "model": model}
        self._prompt_texts: List[str] = []
        self._runs: List[Run] = []

    async def start(self) -> None:
        """Sends all prompts. Failures come as RepriseError, here or from what follows."""
        request, common = self._request, self._request.common
        for prompt in request.prompts:
            if isinstance(prompt, str):
                self._prompt_texts.append(prompt)
            elif request.echo:
                self._prompt_texts.append(
                    await self._client.detokenize(prompt, model=common.options["model"]))
            else:
                self._prompt_texts.append("")
        sessions = await answers.sessions_for(self._client, common, common.n)
        best_of = request.best_of if request.best_of > common.n else 0
        for i, prompt in enumerate(request.prompts):
            options = common.options.copy()
            # An empty text goes on in a session; elsewhere it is a sequence's beginning.
            if prompt == "" and not sessions[0]:
                options["add_bos"] = True
            self._runs += answers.start(self._client, prompt, sessions, options, best_of,
                                        i * common.n)

    async def whole(self) -> Dict[str, Any]:
        """The body of the answer."""
        request = self._request
        choices: List[Dict[str, Any]] = []
        ends: List[pb.Finished] = []
        for run, results in zip(self._runs, await answers.results(self._runs)):
            for answer, result in zip(run.answers, results):
                # The prompt is scored once.
                scored = list(results[0].finished.prompt_logprobs)
                choices.append(self._choice(answer, result, scored))
                ends.append(result.finished)
        return {**self._head, "choices": choices,
                "usage": answers.usage(ends, len(request.prompts))}

    async def chunks(self) -> AsyncIterator[Dict[str, Any]]:
        """The bodies of a stream."""
        request = self._request
        finished: Dict[int, pb.Finished] = {}
        begun = set()
        offsets = {a.index: len(self._prompt_text(a)) for run in self._runs for a in run.answers}
        async for answer, event in answers.merged(self._runs):
            logprobs, reason = None, None
            text = event.text
            if request.echo and answer.index not in begun:
                text = self._prompt_text(answer) + text
            begun.add(answer.index)
            choice: Dict[str, Any] = {"index": answer.index, "text": text}
            if isinstance(event, pb.Finished):
                finished[answer.index] = event
                reason = answers.finish_reason(event)
                choice.update(answers.session_fields(answer, event))
            elif request.logprobs is not None:
                logprobs = answers.completion_logprobs(event.logprobs, offsets[answer.index])
                offsets[answer.index] += len(event.text)
            yield {**self._head, "choices": [{**choice, "logprobs": logprobs,
                                              "finish_reason": reason}]}
        if request.common.include_usage:
            ends = [finished[i] for i in sorted(finished)]
            yield {**self._head, "choices": [],
                   "usage": answers.usage(ends, len(request.prompts))}

    def _prompt_text(self, answer: Answer) -> str:
        return self._prompt_texts[answer.index // self._request.common.n]

    def _choice(self, answer: Answer, result: Result,
                scored: List[pb.TokenLogprob]) -> Dict[str, Any]:
        request = self._request
        prompt = self._prompt_text(answer)
        logprobs = None
        if request.logprobs is not None:
            first = None
            if request.echo and result.finished.usage.prompt_tokens > len(scored):
                # The sequence's first token: what the others leave of the prompt.
                rest = sum(len(token.token) for token in scored)
                first = prompt.encode()[:max(0, len(prompt.encode()) - rest)]
            logprobs = answers.completion_logprobs(scored + result.logprobs,
                                                   0 if request.echo else len(prompt), first)
        return {"index": answer.index, "text": (prompt if request.echo else "") + result.text,
                "logprobs": logprobs, "finish_reason": answers.finish_reason(result.finished),
                **answers.session_fields(answer, result.finished)}
