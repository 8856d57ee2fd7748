"""The client."""

import datetime
import functools
import os
from typing import BinaryIO, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

import grpc
from google.protobuf import duration_pb2

from reprise_client import names
from reprise_client.errors import typed_errors
from reprise_client.generation import Generation, Prompt, Score, build_request
from reprise_client.v1 import (generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc,
                               session_pb2, session_pb2_grpc)

Ttl = Union[None, float, datetime.timedelta]

_PIECE_BYTES = 256 * 1024


class Client:
    """A connection to one server. Thread-safe; use it as a context manager or call close().

    Sessions are named "x" or "sessions/x", snapshots "x/y" or "sessions/x/snapshots/y". Methods
    return the messages of proto/reprise/v1 (`reprise_client.v1`) and raise subclasses of
    `RepriseError`.

    Args:
        target: host:port. Default: REPRISE_SERVER, or 127.0.0.1:7420.
        timeout: seconds that a call may take, unless the call says otherwise; answers that stream
            have no limit by default.
        channel: a gRPC channel to use instead, e.g. one with TLS. It stays open after close().
    """

    def __init__(self, target: str = "", *, timeout: float = 30.0,
                 channel: Optional[grpc.Channel] = None):
        self._owns_channel = channel is None
        self._channel = channel or grpc.insecure_channel(
            target or os.environ.get("REPRISE_SERVER", "127.0.0.1:7420"),
            options=[("grpc.max_receive_message_length", -1)])
        self._timeout = timeout
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._sessions = session_pb2_grpc.SessionServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> None:
        if self._owns_channel:
            self._channel.close()

    # Generation.

    def generate(self, prompt: Prompt = None, *, session: str = "", model: str = "",
                 max_tokens: Optional[int] = None, temperature: float = 0.0, top_k: int = 0,
                 top_p: Optional[float] = None, min_p: float = 0.0,
                 repetition_penalty: Optional[float] = None, presence_penalty: float = 0.0,
                 frequency_penalty: float = 0.0,
                 logit_bias: Optional[Mapping[int, float]] = None, seed: Optional[int] = None,
                 stop: Sequence[str] = (), stop_tokens: Sequence[int] = (),
                 ignore_eos: bool = False, logprobs: bool = False, top_logprobs: int = 0,
                 prompt_logprobs: bool = False, omit_text: bool = False,
                 add_bos: Optional[bool] = None, session_version: int = 0, request_id: str = "",
                 durability: str = "", checkpoint_tokens: int = 0,
                 sync_replicas: Optional[int] = None,
                 timeout: Optional[float] = None) -> Generation:
        """Starts an answer and returns it as an iterator of events.

        Args:
            prompt: text, or token ids that are used as they are. None goes on from where the
                session stands.
            session: append prompt and answer to this session; empty: nothing is kept.
            max_tokens: most tokens to generate. None: the server's default. 0: only feed the
                prompt.
            temperature: 0 is greedy.
            seed: one seed, prompt and model give one answer. None: the session's generator goes on,
                or the server draws a seed and reports it in `finished`.
            session_version: refuse with Conflict unless the session has this version.
            request_id: unique per turn; committing a turn twice changes the session once.
            durability: "async", "sync" or "every_n_tokens"; empty: the server's default.
            checkpoint_tokens: with "every_n_tokens", tokens between checkpoints; 0 = 256.
            sync_replicas: replicas of the store that must have the turn. None: the server's number.

        The others are the fields of SamplingParams, StopConditions and OutputOptions.
        """
        if isinstance(stop, str):
            stop = [stop]
        request = build_request(
            prompt, session=names.session(session), model=model, max_tokens=max_tokens,
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty, logit_bias=logit_bias, seed=seed, stop=stop,
            stop_tokens=stop_tokens, ignore_eos=ignore_eos, logprobs=logprobs,
            top_logprobs=top_logprobs, prompt_logprobs=prompt_logprobs, omit_text=omit_text,
            add_bos=add_bos, session_version=session_version, request_id=request_id,
            durability=durability, checkpoint_tokens=checkpoint_tokens, sync_replicas=sync_replicas)
        return Generation(self._generation.Generate(request, timeout=timeout))

    def score(self, prompt: Prompt, *, model: str = "", session: str = "",
              timeout: Optional[float] = None) -> Score:
        """How probable the model finds a text; with a session, after what the session has (and the
        text is appended to it)."""
        generation = self.generate(prompt, model=model, session=session, max_tokens=0,
                                   prompt_logprobs=True, timeout=timeout)
        return Score.of(generation.result().finished)

    # Sessions.

    def create_session(self, session_id: str = "", *, model: str = "", ttl: Ttl = None,
                       labels: Optional[Mapping[str, str]] = None,
                       request_id: str = "") -> session_pb2.Session:
        """A new, empty session."""
        return self._call(
            self._sessions.CreateSession,
            session_pb2.CreateSessionRequest(session_id=names.session_id(session_id), model=model,
                                             ttl=_duration(ttl), labels=labels,
                                             request_id=request_id))

    def get_session(self, name: str) -> session_pb2.Session:
        return self._call(self._sessions.GetSession,
                          session_pb2.GetSessionRequest(name=names.session(name)))

    def list_sessions(self) -> Iterator[session_pb2.Session]:
        """All sessions, fetched page by page."""
        request = session_pb2.ListSessionsRequest()
        while True:
            page = self._call(self._sessions.ListSessions, request)
            yield from page.sessions
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def update_session(self, name: str, *, labels: Optional[Mapping[str, str]] = None,
                       ttl: Ttl = None, forever: bool = False) -> session_pb2.Session:
        """Replaces all labels, or sets the time to live; `forever` takes it away."""
        request = session_pb2.UpdateSessionRequest(name=names.session(name), labels=labels,
                                                   ttl=_duration(ttl))
        if labels is not None:
            request.update_mask.paths.append("labels")
        if ttl is not None or forever:
            request.update_mask.paths.append("ttl")
        return self._call(self._sessions.UpdateSession, request)

    def delete_session(self, name: str) -> None:
        """Deletes the session and its snapshots; forks of it live on."""
        self._call(self._sessions.DeleteSession,
                   session_pb2.DeleteSessionRequest(name=names.session(name)))

    def fork(self, source: str, session_id: str = "", *, ttl: Ttl = None,
             labels: Optional[Mapping[str, str]] = None,
             request_id: str = "") -> session_pb2.Session:
        """A new session that starts where a session, or one of its snapshots, is."""
        return self._call(
            self._sessions.ForkSession,
            session_pb2.ForkSessionRequest(source=names.session_or_snapshot(source),
                                           session_id=names.session_id(session_id),
                                           ttl=_duration(ttl), labels=labels,
                                           request_id=request_id))

    def rewind(self, name: str, snapshot: str, *, session_version: int = 0,
               request_id: str = "") -> session_pb2.Session:
        """Moves the session back to one of its snapshots."""
        return self._call(
            self._sessions.RewindSession,
            session_pb2.RewindSessionRequest(name=names.session(name),
                                             snapshot=names.snapshot(snapshot, name),
                                             session_version=session_version,
                                             request_id=request_id))

    def commit_of(self, session: str, request_id: str) -> generation_pb2.TurnCommit:
        """What became of the turn under `request_id`; NotFound when it was not committed."""
        return self._call(
            self._sessions.GetCommit,
            session_pb2.GetCommitRequest(session=names.session(session), request_id=request_id))

    # Snapshots.

    def create_snapshot(self, session: str) -> session_pb2.Snapshot:
        """Keeps the session's present state."""
        return self._call(self._sessions.CreateSnapshot,
                          session_pb2.CreateSnapshotRequest(session=names.session(session)))

    def get_snapshot(self, name: str) -> session_pb2.Snapshot:
        return self._call(self._sessions.GetSnapshot,
                          session_pb2.GetSnapshotRequest(name=names.snapshot(name)))

    def list_snapshots(self, session: str) -> Iterator[session_pb2.Snapshot]:
        request = session_pb2.ListSnapshotsRequest(session=names.session(session))
        while True:
            page = self._call(self._sessions.ListSnapshots, request)
            yield from page.snapshots
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def delete_snapshot(self, name: str) -> None:
        self._call(self._sessions.DeleteSnapshot,
                   session_pb2.DeleteSnapshotRequest(name=names.snapshot(name)))

    def export_snapshot(self, name: str, *, timeout: Optional[float] = None) -> Iterator[bytes]:
        """The self-contained file of a snapshot, or of a session's head, piece by piece."""
        request = session_pb2.ExportSnapshotRequest(name=names.session_or_snapshot(name))
        with typed_errors():
            for response in self._sessions.ExportSnapshot(request, timeout=timeout):
                yield response.data

    def import_snapshot(self, data: Union[bytes, BinaryIO, Iterable[bytes]], session_id: str = "",
                        *, model: str = "", ttl: Ttl = None,
                        labels: Optional[Mapping[str, str]] = None,
                        timeout: Optional[float] = None) -> session_pb2.Session:
        """A new session from such a file: its bytes, an open binary file, or pieces."""
        head = session_pb2.CreateSessionRequest(session_id=names.session_id(session_id),
                                                model=model, ttl=_duration(ttl), labels=labels)

        def messages():
            yield session_pb2.ImportSnapshotRequest(session=head)
            for piece in _pieces(data):
                yield session_pb2.ImportSnapshotRequest(data=piece)

        with typed_errors():
            return self._sessions.ImportSnapshot(messages(), timeout=timeout)

    # Models.

    def list_models(self) -> List[model_pb2.Model]:
        return list(self._call(self._models.ListModels, model_pb2.ListModelsRequest()).models)

    def get_model(self, name: str = "") -> model_pb2.Model:
        """Without a name: the server's only model."""
        return self._call(self._models.GetModel, model_pb2.GetModelRequest(name=name))

    def tokenize(self, text: str, *, model: str = "", add_bos: bool = False,
                 parse_special: bool = False) -> List[int]:
        request = model_pb2.TokenizeRequest(model=model, text=text, add_bos=add_bos,
                                            parse_special=parse_special)
        return list(self._call(self._models.Tokenize, request).ids)

    def detokenize(self, ids: Sequence[int], *, model: str = "") -> str:
        request = model_pb2.DetokenizeRequest(model=model, ids=ids)
        return self._call(self._models.Detokenize, request).text

    def _call(self, method, request):
        with typed_errors():
            return method(request, timeout=self._timeout)


def _duration(ttl: Ttl) -> Optional[duration_pb2.Duration]:
    if ttl is None:
        return None
    duration = duration_pb2.Duration()
    duration.FromTimedelta(
        ttl if isinstance(ttl, datetime.timedelta) else datetime.timedelta(seconds=ttl))
    return duration


def _pieces(data) -> Iterator[bytes]:
    """`data` in pieces of at most a message's size."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        data = [data]
    elif hasattr(data, "read"):
        data = iter(functools.partial(data.read, _PIECE_BYTES), b"")
    for block in data:
        for start in range(0, len(block), _PIECE_BYTES):
            yield bytes(block[start:start + _PIECE_BYTES])
