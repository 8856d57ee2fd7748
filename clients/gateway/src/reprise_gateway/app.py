"""The ASGI application: requests in, answers or errors out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
from typing import (Any, AsyncIterator, Awaitable, Callable, Coroutine, Dict, Mapping, Optional,
                    TypeVar, Union)

import reprise_client as rc
from reprise_client import AsyncClient
from reprise_gateway import chat, chat_template, completions
from reprise_gateway.errors import BadField, HttpError, from_reprise
from reprise_gateway.fields import Fields, parse_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

Output = TypeVar("Output")
Work = Union[completions.Completion, chat.Chat]

log = logging.getLogger("reprise_gateway")


@dataclasses.dataclass(frozen=True)
class Settings:
    """`connect` makes the client, in the application's event loop. `configs`: what is known of the
    tokenizers by model; "" is for all others."""
    connect: Callable[[], AsyncClient]
    configs: Mapping[str, chat_template.TokenizerConfig] = dataclasses.field(default_factory=dict)
    max_body_bytes: int = 8 * 2**20
    max_choices: int = 128


class ClientGone(Exception):
    """Nobody waits for this answer any more."""


class Gateway:
    """The handlers."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._client: Optional[AsyncClient] = None
        self._templates = {model: chat_template.template_of(config)
                           for model, config in settings.configs.items()}

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self._settings.connect() as client:
            self._client = client
            yield

    async def completions(self, request: Request) -> Response:
        parsed = completions.parse(await self._body(request), self._settings.max_choices)
        client = self._client_of(request)
        model = await self._model(client, parsed.common.options["model"])
        return await _answer(request, completions.Completion(client, parsed, model),
                             parsed.common.stream)

    async def chat(self, request: Request) -> Response:
        parsed = chat.parse(await self._body(request), self._settings.max_choices)
        client = self._client_of(request)
        model = await self._model(client, parsed.common.options["model"])
        template = self._templates.get(model) or self._templates.get("") or chat_template.plain()
        return await _answer(request, chat.Chat(client, parsed, template, model),
                             parsed.common.stream)

    async def models(self, request: Request) -> Response:
        models = await self._client_of(request).list_models()
        return JSONResponse({"object": "list", "data": [_describe(model) for model in models]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        return JSONResponse(_describe(await self._client_of(request).get_model(name)))

    async def health(self, request: Request) -> Response:
        assert self._client is not None
        try:
            serving = await self._client.serving()
        except rc.PermissionDenied:
            serving = True  # it answers, if not to us
        return JSONResponse({"status": "ok" if serving else "unavailable"}, 200 if serving else 503)

    # The tokenizer, as vLLM has it.

    async def tokenize(self, request: Request) -> Response:
        fields = Fields(await self._body(request))
        prompt, model = fields.string("prompt"), fields.string("model")
        add_bos = fields.take("add_special_tokens") is not False
        fields.done()
        ids = await self._client_of(request).tokenize(prompt, model=model, add_bos=add_bos,
                                                      parse_special=True)
        return JSONResponse({"tokens": ids, "count": len(ids)})

    async def detokenize(self, request: Request) -> Response:
        fields = Fields(await self._body(request))
        ids, model = fields.take("tokens"), fields.string("model")
        fields.done()
        if not isinstance(ids, list) or not all(
                type(i) is int and 0 <= i < 2**31 for i in ids):
            raise BadField("tokens", "must be a list of token ids")
        return JSONResponse({"prompt": await self._client_of(request).detokenize(ids,
                                                                                 model=model)})

    async def tokenizer_info(self, request: Request) -> Response:
        config = self._settings.configs.get("")
        if config is None:
            raise HttpError(404, "this gateway was started without --tokenizer-config")
        return JSONResponse({name: value for name, value in dataclasses.asdict(config).items()
                             if value is not None})

    def _client_of(self, request: Request) -> AsyncClient:
        """In the caller's name, if it has given one."""
        assert self._client is not None
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token:
            return self._client
        if not token.isascii() or not token.isprintable():
            raise HttpError(401, "the bearer token is not one", kind="authentication_error")
        return self._client.with_token(token)

    async def _model(self, client: AsyncClient, name: str) -> str:
        return name or (await client.get_model()).name

    async def _body(self, request: Request) -> Dict[str, Any]:
        limit = self._settings.max_body_bytes
        too_large = HttpError(413, f"the body is longer than {limit} bytes", code="body_too_large")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise too_large
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > limit:
                raise too_large
        return parse_json(bytes(data))


def create_app(settings: Settings) -> Starlette:
    gateway = Gateway(settings)
    post, get = ["POST"], ["GET"]
    return Starlette(
        lifespan=gateway.lifespan,
        routes=[
            Route("/v1/completions", gateway.completions, methods=post),
            Route("/v1/chat/completions", gateway.chat, methods=post),
            Route("/v1/models", gateway.models, methods=get),
            Route("/v1/models/{name:path}", gateway.model, methods=get),
            Route("/tokenize", gateway.tokenize, methods=post),
            Route("/detokenize", gateway.detokenize, methods=post),
            Route("/tokenizer_info", gateway.tokenizer_info, methods=get),
            Route("/health", gateway.health, methods=get),
        ],
        exception_handlers={
            HttpError: _on_http_error,
            rc.RepriseError: _on_reprise_error,
            HTTPException: _on_starlette_error,
            ClientGone: _on_client_gone,
            Exception: _on_bug,
        })


async def _answer(request: Request, work: Work, stream: bool) -> Response:
    if not stream:

        async def whole() -> Dict[str, Any]:
            await work.start()
            return await work.whole()

        return JSONResponse(await _unless_gone(request.receive, whole()))
    # What fails before the first event is an answer of its own.
    chunks = work.chunks()

    async def first() -> Dict[str, Any]:
        await work.start()
        return await chunks.__anext__()

    return EventStream(await _unless_gone(request.receive, first()), chunks)


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, Output]) -> Output:
    """`work`, cancelled when the client is gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone()
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events. Ends what makes them when the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, first: Dict[str, Any], rest: AsyncIterator[Dict[str, Any]]):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGone, OSError):
            await _unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async def write(data: str, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(),
                        "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await write(_dump(self._first))
            async for chunk in self._rest:
                await write(_dump(chunk))
        except rc.RepriseError as error:
            await write(_dump(from_reprise(error).body()))
        except Exception:
            log.exception("a stream failed")
            await write(_dump(_bug().body()))
        await write("[DONE]", more=False)


def _dump(body: Dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _describe(model: Any) -> Dict[str, Any]:
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "reprise",
            "max_prompt_tokens": model.max_prompt_tokens, "state_bytes": model.state_bytes}


def _bug() -> HttpError:
    return HttpError(500, "the gateway failed; its log says why", kind="server_error")


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return error.response()


async def _on_reprise_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, rc.RepriseError)
    return from_reprise(error).response()


async def _on_starlette_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return HttpError(error.status_code, error.detail).response()


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _on_bug(request: Request, error: Exception) -> Response:
    return _bug().response()
