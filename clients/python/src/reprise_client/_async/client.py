"""The client."""

from __future__ import annotations

import os
import pathlib
from typing import (TYPE_CHECKING, Any, AsyncIterator, Iterator, List, Mapping, Optional, Sequence,
                    Union)

from google.protobuf import wrappers_pb2
from reprise_client import methods, names
from reprise_client._async import feeding, runtime
from reprise_client._async.choices import AsyncChoices
from reprise_client._async.connection import AsyncConnection, typed_errors
from reprise_client._async.generation import AsyncGeneration
from reprise_client._async.session import AsyncSession
from reprise_client.errors import AlreadyExists, Unavailable
from reprise_client.options import Retry, Tls, Token
from reprise_client.progress import Progress
from reprise_client.requests import (GenerateOptions, Prompt, SnapshotData, Ttl, build_request,
                                     duration, new_request_id, pieces)
from reprise_client.results import Fed, Result, Score
from reprise_client.v1 import generation_pb2, model_pb2, session_pb2

if TYPE_CHECKING:
    from typing_extensions import Unpack


# Messages of one field, shaped as those of grpc.health.v1: `service` and `status`.
_HEALTH = methods.Method("/grpc.health.v1.Health/Check", wrappers_pb2.StringValue,
                         wrappers_pb2.Int32Value)
_SERVING = 1


class AsyncClient:
    """A connection to a server, or to several that share their sessions. Use it as a context
    manager or call close().

    Sessions are named "x" or "sessions/x", snapshots "x/y" or "sessions/x/snapshots/y". Methods
    return the messages of proto/reprise/v1 (`reprise_client.v1`) and raise subclasses of
    `RepriseError`.

    Args:
        target: host:port, or several as a list or with commas: then a session's calls go to one of
            them, chosen by consistent hashing, and to others while that does not answer. Default:
            REPRISE_SERVER, or 127.0.0.1:7420.
        timeout: seconds that a call may take, unless the call says otherwise; answers that stream
            have no limit by default.
        tls: encrypt; `Tls()` trusts the machine's authorities.
        token: bearer token, or a function that returns one, asked for each call. Default:
            REPRISE_TOKEN; "" is none, whatever the environment says.
        allow_plaintext_token: send the token without TLS to other machines too.
        retry: how long lost connections are tried again; Retry(0) never. Only what can be repeated
            without harm is; see Generation for answers.
        keepalive_seconds: time between two pings of an idle connection; 0 = none.
        channel: a gRPC channel to use instead of all this. It stays open after close().
    """

    def __init__(self, target: Union[str, Sequence[str]] = "", *, timeout: float = 30.0,
                 tls: Optional[Tls] = None, token: Optional[Token] = None,
                 allow_plaintext_token: bool = False, retry: Retry = Retry(),
                 keepalive_seconds: float = 30.0, channel: Optional[runtime.Channel] = None):
        if token is None:
            token = os.environ.get("REPRISE_TOKEN", "")
        if token == "":
            token = None
        self._connection = AsyncConnection(target, timeout=timeout, tls=tls, token=token,
                                           allow_plaintext_token=allow_plaintext_token,
                                           retry=retry, keepalive_seconds=keepalive_seconds,
                                           channel=channel)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    def with_token(self, token: Token) -> AsyncClient:
        """A client with this one's channels and another token, for servers that pass on who calls.
        Needs no close()."""
        other = AsyncClient.__new__(AsyncClient)
        other._connection = self._connection.with_token(token)
        return other

    async def serving(self) -> bool:
        """Whether a server takes calls; False while it starts or drains. Needs no token."""
        try:
            answer = await self._connection.call(_HEALTH, wrappers_pb2.StringValue())
        except Unavailable:
            return False
        return answer.value == _SERVING

    # Generation.

    def generate(self, prompt: Prompt = None, *, session: str = "", resumable: bool = False,
                 timeout: Optional[float] = None,
                 **options: Unpack[GenerateOptions]) -> AsyncGeneration:
        """Starts an answer and returns it as an iterator of events.

        Args:
            prompt: text, or token ids that are used as they are. None goes on from where the
                session stands.
            session: append prompt and answer to this session; empty: nothing is kept.
            resumable: keep a snapshot of the session while the turn runs, so that after a lost
                connection the whole answer can be had, whatever the server has committed. Costs up
                to four small calls a turn. If the turn fails for good the snapshot stays.
            options: see GenerateOptions.
        """
        request = build_request(prompt, session, **options)
        return AsyncGeneration(self._connection, request, timeout=timeout,
                               resumable=resumable and bool(session))

    async def choices(self, prompt: Prompt = None, n: int = 1, *, best_of: int = 0,
                      session: str = "", timeout: Optional[float] = None,
                      **options: Unpack[GenerateOptions]) -> List[Result]:
        """`n` whole answers to one prompt, which is computed once; with `best_of`, the n of so many
        that have the highest mean log-probability, best first. Choice i has a seed of its own that
        the request's gives (generation.proto). With a session, choice 0 is committed."""
        return await self.stream_choices(prompt, n, best_of=best_of, session=session,
                                         timeout=timeout, **options).results()

    def stream_choices(self, prompt: Prompt = None, n: int = 1, *, best_of: int = 0,
                       session: str = "", timeout: Optional[float] = None,
                       **options: Unpack[GenerateOptions]) -> AsyncChoices:
        """As choices(), with the answers as they come; with `best_of` that is when all are there."""
        request = build_request(prompt, session, **options)
        request.n, request.best_of = n, best_of
        return AsyncChoices(self._connection, request, timeout=timeout)

    async def score(self, prompt: Prompt, *, model: str = "", session: str = "",
                    timeout: Optional[float] = None) -> Score:
        """How probable the model finds a text; with a session, after what the session has (and the
        text is appended to it)."""
        generation = self.generate(prompt, model=model, session=session, max_tokens=0,
                                   prompt_logprobs=True, timeout=timeout)
        return Score.of((await generation.result()).finished)

    async def feed(self, session: str, prompt: Prompt, *, model: str = "",
                   chunk_tokens: int = 1024, resume: bool = True,
                   after: Union[None, str, session_pb2.Snapshot] = None,
                   add_bos: Optional[bool] = None, durability: str = "",
                   progress: Progress = None) -> Fed:
        """Feeds a long prompt in chunks, each a turn that is committed. Generate with the session
        afterwards; the answer is that of the prompt in one piece.

        With `resume`, the session may have the beginning of this prompt, as an earlier call left it
        that was cut off: it is recognised by its hash and not fed again. Tokens of something else
        are a Conflict, unless they are those of the snapshot `after`, which this prompt follows.
        Without `resume` the prompt follows whatever the session has.

        Args:
            chunk_tokens: tokens between two commits, and two reports.
            durability: of each chunk, as in generate().
            progress: "tqdm", "rich", or a function that is called with (tokens done, of how many).
        """
        return await feeding.feed(self._connection, session, prompt, model=model,
                                  chunk_tokens=chunk_tokens, resume=resume, after=after,
                                  add_bos=add_bos, durability=durability, progress=progress)

    # Sessions.

    async def session(self, session_id: str = "", *, keep: Optional[bool] = None, model: str = "",
                      ttl: Ttl = None,
                      labels: Optional[Mapping[str, str]] = None) -> AsyncSession:
        """A session as an object: without an id a new one, deleted at the end of its `with`; with
        an id that one, made if it is not there, and kept. `keep` says otherwise."""
        name = names.session(session_id)
        try:
            name = (await self.create_session(session_id, model=model, ttl=ttl,
                                              labels=labels)).name
        except AlreadyExists:
            pass
        return AsyncSession(self, name, bool(session_id) if keep is None else keep)

    async def create_session(self, session_id: str = "", *, model: str = "", ttl: Ttl = None,
                             labels: Optional[Mapping[str, str]] = None,
                             request_id: str = "") -> session_pb2.Session:
        """A new, empty session."""
        return await self._connection.call(
            methods.CREATE_SESSION,
            session_pb2.CreateSessionRequest(session_id=names.session_id(session_id), model=model,
                                             ttl=duration(ttl), labels=labels,
                                             request_id=request_id or new_request_id()),
            key=names.session_id(session_id))

    async def get_session(self, name: str) -> session_pb2.Session:
        return await self._connection.call(methods.GET_SESSION,
                                           session_pb2.GetSessionRequest(name=names.session(name)),
                                           key=_key(name))

    async def list_sessions(self) -> AsyncIterator[session_pb2.Session]:
        """All sessions, fetched page by page."""
        request = session_pb2.ListSessionsRequest()
        while True:
            page = await self._connection.call(methods.LIST_SESSIONS, request)
            for session in page.sessions:
                yield session
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def update_session(self, name: str, *, labels: Optional[Mapping[str, str]] = None,
                             ttl: Ttl = None, forever: bool = False) -> session_pb2.Session:
        """Replaces all labels, or sets the time to live; `forever` takes it away."""
        request = session_pb2.UpdateSessionRequest(name=names.session(name), labels=labels,
                                                   ttl=duration(ttl))
        if labels is not None:
            request.update_mask.paths.append("labels")
        if ttl is not None or forever:
            request.update_mask.paths.append("ttl")
        return await self._connection.call(methods.UPDATE_SESSION, request, key=_key(name))

    async def delete_session(self, name: str) -> None:
        """Deletes the session and its snapshots; forks of it live on."""
        await self._connection.call(methods.DELETE_SESSION,
                                    session_pb2.DeleteSessionRequest(name=names.session(name)),
                                    key=_key(name))

    async def fork(self, source: str, session_id: str = "", *, ttl: Ttl = None,
                   labels: Optional[Mapping[str, str]] = None,
                   request_id: str = "") -> session_pb2.Session:
        """A new session that starts where a session, or one of its snapshots, is."""
        return await self._connection.call(
            methods.FORK_SESSION,
            session_pb2.ForkSessionRequest(source=names.session_or_snapshot(source),
                                           session_id=names.session_id(session_id),
                                           ttl=duration(ttl), labels=labels,
                                           request_id=request_id or new_request_id()),
            key=_key(source))

    async def rewind(self, session: str, snapshot: str, *, session_version: int = 0,
                     request_id: str = "") -> session_pb2.Session:
        """Moves a session back to one of its snapshots."""
        request = session_pb2.RewindSessionRequest(
            name=names.session(session), snapshot=names.snapshot(snapshot, session),
            session_version=session_version, request_id=request_id)
        return await self._connection.call(methods.REWIND_SESSION, request, key=_key(session),
                                           repeatable=bool(request_id and session_version))

    async def commit_of(self, session: str, request_id: str) -> generation_pb2.TurnCommit:
        """What became of a turn; NotFound if it has not been committed, or is forgotten."""
        return await self._connection.call(
            methods.GET_COMMIT,
            session_pb2.GetCommitRequest(session=names.session(session), request_id=request_id),
            key=_key(session))

    # Snapshots.

    async def create_snapshot(self, session: str) -> session_pb2.Snapshot:
        """Keeps the session's present state."""
        return await self._connection.call(
            methods.CREATE_SNAPSHOT,
            session_pb2.CreateSnapshotRequest(session=names.session(session)), key=_key(session))

    async def get_snapshot(self, name: str) -> session_pb2.Snapshot:
        return await self._connection.call(
            methods.GET_SNAPSHOT, session_pb2.GetSnapshotRequest(name=names.snapshot(name)),
            key=_key(name))

    async def list_snapshots(self, session: str) -> AsyncIterator[session_pb2.Snapshot]:
        request = session_pb2.ListSnapshotsRequest(session=names.session(session))
        while True:
            page = await self._connection.call(methods.LIST_SNAPSHOTS, request, key=_key(session))
            for snapshot in page.snapshots:
                yield snapshot
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def delete_snapshot(self, name: str) -> None:
        await self._connection.call(methods.DELETE_SNAPSHOT,
                                    session_pb2.DeleteSnapshotRequest(name=names.snapshot(name)),
                                    key=_key(name))

    async def export_snapshot(self, name: str, *,
                              timeout: Optional[float] = None) -> AsyncIterator[bytes]:
        """The self-contained file of a snapshot, or of a session's head, piece by piece."""
        request = session_pb2.ExportSnapshotRequest(name=names.session_or_snapshot(name))
        _, call = self._connection.stream(methods.EXPORT_SNAPSHOT, request, key=_key(name),
                                          timeout=timeout)
        async with typed_errors():
            async for response in call:
                yield response.data

    async def export_to_file(self, name: str, path: str, *,
                             timeout: Optional[float] = None) -> int:
        """Writes that file, all of it or nothing; returns its size in bytes."""
        part = pathlib.Path(f"{path}.part")
        size = 0
        try:
            with part.open("wb") as file:
                async for piece in self.export_snapshot(name, timeout=timeout):
                    size += file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return size

    async def import_snapshot(self, data: SnapshotData, session_id: str = "", *, model: str = "",
                              ttl: Ttl = None, labels: Optional[Mapping[str, str]] = None,
                              timeout: Optional[float] = None) -> session_pb2.Session:
        """A new session from such a file: its bytes, an open binary file, or pieces."""
        head = session_pb2.CreateSessionRequest(session_id=names.session_id(session_id),
                                                model=model, ttl=duration(ttl), labels=labels)

        def messages() -> Iterator[session_pb2.ImportSnapshotRequest]:
            yield session_pb2.ImportSnapshotRequest(session=head)
            for piece in pieces(data):
                yield session_pb2.ImportSnapshotRequest(data=piece)

        return await self._connection.upload(methods.IMPORT_SNAPSHOT, messages(),
                                             key=head.session_id, timeout=timeout)

    async def import_from_file(self, path: str, session_id: str = "", *, model: str = "",
                               ttl: Ttl = None, labels: Optional[Mapping[str, str]] = None,
                               timeout: Optional[float] = None) -> session_pb2.Session:
        """A new session from a file that export_to_file() wrote."""
        with open(path, "rb") as file:
            return await self.import_snapshot(file, session_id, model=model, ttl=ttl,
                                              labels=labels, timeout=timeout)

    # Models.

    async def list_models(self) -> List[model_pb2.Model]:
        answer = await self._connection.call(methods.LIST_MODELS, model_pb2.ListModelsRequest())
        return list(answer.models)

    async def get_model(self, name: str = "") -> model_pb2.Model:
        """Without a name: the server's only model."""
        return await self._connection.call(methods.GET_MODEL, model_pb2.GetModelRequest(name=name))

    async def tokenize(self, text: str, *, model: str = "", add_bos: bool = False,
                       parse_special: bool = False) -> List[int]:
        request = model_pb2.TokenizeRequest(model=model, text=text, add_bos=add_bos,
                                            parse_special=parse_special)
        return list((await self._connection.call(methods.TOKENIZE, request)).ids)

    async def detokenize(self, ids: Sequence[int], *, model: str = "") -> str:
        request = model_pb2.DetokenizeRequest(model=model, ids=ids)
        return (await self._connection.call(methods.DETOKENIZE, request)).text


def _key(name: str) -> str:
    """The session's id, whatever form a session's or snapshot's name has."""
    return names.session_id(name).split("/", 1)[0]
