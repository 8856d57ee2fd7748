"""/v1/chat/completions."""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import Any, AsyncIterator, Dict, List

from reprise_client import AsyncClient
from reprise_client.v1 import generation_pb2 as pb
from reprise_gateway import answers
from reprise_gateway.answers import Run
from reprise_gateway.chat_template import ChatTemplate, read_messages
from reprise_gateway.errors import BadField
from reprise_gateway.fields import Fields
from reprise_gateway.sampling import MAX_INT32, Common, read_common


@dataclasses.dataclass
class ChatRequest:
    common: Common
    messages: List[Dict[str, str]]
    logprobs: bool
    top_logprobs: int


def parse(body: Dict[str, Any], max_choices: int) -> ChatRequest:
    """Raises BadField."""
    fields = Fields(body)
    common = read_common(fields, max_choices)
    messages = read_messages(fields.take("messages"))
    old = fields.integer("max_tokens", 0, MAX_INT32)
    new = fields.integer("max_completion_tokens", 0, MAX_INT32)
    logprobs = fields.boolean("logprobs")
    top_logprobs = fields.integer("top_logprobs", 0, 20) or 0
    if top_logprobs and not logprobs:
        raise BadField("top_logprobs", "needs `logprobs`: true")
    fields.refuse("tools", [])
    fields.refuse("tool_choice", "none", "auto")
    fields.refuse("functions", [])
    fields.refuse("function_call", "none", "auto")
    fields.refuse("response_format", {"type": "text"})
    fields.refuse("modalities", ["text"])
    fields.refuse("audio")
    fields.refuse("prediction")
    fields.refuse("reasoning_effort", "none")
    fields.ignore("parallel_tool_calls")
    fields.done()
    common.options["max_tokens"] = old if new is None else new
    common.options["logprobs"] = logprobs
    common.options["top_logprobs"] = top_logprobs
    return ChatRequest(common, messages, logprobs, top_logprobs)


class Chat:
    """One request that has started."""

    def __init__(self, client: AsyncClient, request: ChatRequest, template: ChatTemplate,
                 model: str):
        self._client = client
        self._request = request
        self._template = template
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()),
                      "model": model}
        self._runs: List[Run] = []

    async def start(self) -> None:
        """Sends the prompt. Failures are RepriseError or BadField, here or in what follows."""
        common = self._request.common
        text = self._template.render(self._request.messages)
        await self._refuse_control_tokens()
        sessions = await answers.sessions_for(self._client, common, common.n)
        begun = bool(sessions[0]) and (await self._client.get_session(
            sessions[0])).token_count > 0
        prompt = await self._client.tokenize(
            text, model=common.options["model"], parse_special=self._template.special,
            add_bos=not begun and not self._template.begins_with_bos(text))
        options = common.options.copy()
        options["stop"] = [*options["stop"], *self._template.stops]
        self._runs = answers.start(self._client, prompt, sessions, options, 0, 0)

    async def _refuse_control_tokens(self) -> None:
        """The template's control tokens are for the template: what users write must not end their
        turn and begin another's."""
        if not self._template.special:
            return
        texts = "\n".join(message["content"] for message in self._request.messages)
        model = self._request.common.options["model"]
        plain = await self._client.tokenize(texts, model=model)
        if plain != await self._client.tokenize(texts, model=model, parse_special=True):
            raise BadField("messages", "a content has the text of a control token",
                           "control_token")

    async def whole(self) -> Dict[str, Any]:
        """The body of the answer."""
        found = [(answer, result)
                 for run, results in zip(self._runs, await answers.results(self._runs))
                 for answer, result in zip(run.answers, results)]
        choices = []
        for answer, result in found:
            logprobs = answers.chat_logprobs(result.logprobs, self._request.top_logprobs)
            choices.append({
                "index": answer.index,
                "message": {"role": "assistant", "content": self._first(result.text),
                            "refusal": None},
                "logprobs": logprobs if self._request.logprobs else None,
                "finish_reason": answers.finish_reason(result.finished),
                **answers.session_fields(answer, result.finished)
            })
        return {**self._head, "object": "chat.completion", "choices": choices,
                "usage": answers.usage([result.finished for _, result in found])}

    async def chunks(self) -> AsyncIterator[Dict[str, Any]]:
        """The bodies of a stream."""
        head = {**self._head, "object": "chat.completion.chunk"}
        finished: Dict[int, pb.Finished] = {}
        begun = set()
        with_text = set()
        async for answer, event in answers.merged(self._runs):
            delta: Dict[str, Any] = {}
            if answer.index not in begun:
                begun.add(answer.index)
                delta = {"role": "assistant", "content": ""}
            text = event.text if answer.index in with_text else self._first(event.text)
            if text:
                with_text.add(answer.index)
                delta["content"] = text
            choice: Dict[str, Any] = {"index": answer.index, "delta": delta, "logprobs": None,
                                      "finish_reason": None}
            if isinstance(event, pb.Finished):
                finished[answer.index] = event
                choice["finish_reason"] = answers.finish_reason(event)
                choice.update(answers.session_fields(answer, event))
            elif self._request.logprobs:
                choice["logprobs"] = answers.chat_logprobs(event.logprobs,
                                                           self._request.top_logprobs)
            if delta or choice["logprobs"] or choice["finish_reason"]:
                yield {**head, "choices": [choice]}
        if self._request.common.include_usage:
            ends = [finished[i] for i in sorted(finished)]
            yield {**head, "choices": [], "usage": answers.usage(ends)}

    def _first(self, text: str) -> str:
        """The beginning of an answer; after "Assistant:" the space belongs to nobody."""
        return text if self._template.special else text.lstrip(" ")
