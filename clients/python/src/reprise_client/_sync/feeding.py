# Made from _async/feeding.py by make_sync.py: edit there.
"""Long prompts, chunk by chunk: with progress, and with a way to go on after a crash."""

from __future__ import annotations

from typing import List, Optional, Union

import grpc
from reprise_client import methods, names
from reprise_client._sync.connection import Connection
from reprise_client._sync.generation import Generation
from reprise_client.errors import Conflict
from reprise_client.progress import Progress, reporting
from reprise_client.replay import chain_hash
from reprise_client.requests import Prompt, durability_of, new_request_id
from reprise_client.results import Fed
from reprise_client.v1 import generation_pb2 as pb
from reprise_client.v1 import model_pb2, session_pb2


def feed(connection: Connection, session_name: str, prompt: Prompt, *, model: str,
               chunk_tokens: int, resume: bool,
               after: Union[None, str, session_pb2.Snapshot], add_bos: Optional[bool],
               durability: str, progress: Progress) -> Fed:
    """See Client.feed."""
    if chunk_tokens < 1:
        raise ValueError("chunk_tokens must be at least 1")
    if after is not None and not resume:
        raise ValueError("after: only with resume")
    name = names.session(session_name)
    key = names.session_id(name)
    session = connection.call(methods.GET_SESSION, session_pb2.GetSessionRequest(name=name),
                                    key=key)
    base_count, base_hash = 0, ""
    if isinstance(after, str):
        after = connection.call(
            methods.GET_SNAPSHOT,
            session_pb2.GetSnapshotRequest(name=names.snapshot(after, session_name)), key=key)
    if after is not None:
        base_count, base_hash = after.token_count, after.token_hash
    elif not resume:
        base_count = session.token_count
    ids = _token_ids(connection, prompt, model or session.model,
                           base_count == 0 if add_bos is None else add_bos)

    done = session.token_count - base_count
    if resume and session.token_count > 0:
        head = connection.call(methods.GET_SNAPSHOT,
                                     session_pb2.GetSnapshotRequest(name=session.head_snapshot),
                                     key=key)
        if done < 0 or done > len(ids) or head.token_hash != chain_hash(ids[:done], base_hash):
            raise Conflict(grpc.StatusCode.ABORTED,
                           f"{name} has {session.token_count} tokens that are not the beginning "
                           "of this prompt; resume=False appends to them")
    skipped, version = done, session.version
    request_id = new_request_id()
    with reporting(progress) as report:
        report(done, len(ids))
        while done < len(ids):
            chunk = ids[done:done + chunk_tokens]
            # The version makes sure that nobody else writes between two chunks.
            request = pb.GenerateRequest(model=model, session=name, session_version=version,
                                         request_id=f"{request_id}.{done}")
            request.tokens.ids.extend(chunk)
            request.stop.max_tokens = 0
            if durability:
                request.durability = durability_of(durability)
            answer = Generation(connection, request, timeout=None,
                                           resumable=False).result()
            version = answer.finished.commit.version
            done += len(chunk)
            report(done, len(ids))
    return Fed(token_count=base_count + len(ids), computed=len(ids) - skipped, skipped=skipped)


def _token_ids(connection: Connection, prompt: Prompt, model: str,
                     add_bos: bool) -> List[int]:
    if prompt is None or isinstance(prompt, str):
        request = model_pb2.TokenizeRequest(model=model, text=prompt or "",
                                            add_bos=add_bos and bool(prompt))
        return list((connection.call(methods.TOKENIZE, request)).ids)
    return list(prompt)
