"""The calls of reprise.v1 by path, with their types."""

from __future__ import annotations

import dataclasses
from typing import Callable, Generic, Type, TypeVar

from google.protobuf import empty_pb2
from google.protobuf.message import Message
from reprise_client.v1 import generation_pb2, model_pb2, session_pb2

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclasses.dataclass(frozen=True)
class Method(Generic[Request, Response]):
    path: str
    request: Type[Request]
    response: Type[Response]
    # A second try after a lost connection changes nothing that the first has not changed. Of forks,
    # creations and rewinds that is true with a request_id, which this client always sends.
    repeatable: bool = False

    @property
    def serialize(self) -> Callable[[Request], bytes]:
        return self.request.SerializeToString

    @property
    def parse(self) -> Callable[[bytes], Response]:
        return self.response.FromString


_G, _S, _M = (f"/reprise.v1.{name}Service/" for name in ["Generation", "Session", "Model"])

GENERATE = Method(_G + "Generate", generation_pb2.GenerateRequest, generation_pb2.GenerateResponse)

CREATE_SESSION = Method(_S + "CreateSession", session_pb2.CreateSessionRequest,
                        session_pb2.Session, True)
GET_SESSION = Method(_S + "GetSession", session_pb2.GetSessionRequest, session_pb2.Session, True)
LIST_SESSIONS = Method(_S + "ListSessions", session_pb2.ListSessionsRequest,
                       session_pb2.ListSessionsResponse, True)
UPDATE_SESSION = Method(_S + "UpdateSession", session_pb2.UpdateSessionRequest,
                        session_pb2.Session)
DELETE_SESSION = Method(_S + "DeleteSession", session_pb2.DeleteSessionRequest, empty_pb2.Empty)
FORK_SESSION = Method(_S + "ForkSession", session_pb2.ForkSessionRequest, session_pb2.Session,
                      True)
REWIND_SESSION = Method(_S + "RewindSession", session_pb2.RewindSessionRequest,
                        session_pb2.Session)
GET_COMMIT = Method(_S + "GetCommit", session_pb2.GetCommitRequest, generation_pb2.TurnCommit,
                    True)
CREATE_SNAPSHOT = Method(_S + "CreateSnapshot", session_pb2.CreateSnapshotRequest,
                         session_pb2.Snapshot)
GET_SNAPSHOT = Method(_S + "GetSnapshot", session_pb2.GetSnapshotRequest, session_pb2.Snapshot,
                      True)
LIST_SNAPSHOTS = Method(_S + "ListSnapshots", session_pb2.ListSnapshotsRequest,
                        session_pb2.ListSnapshotsResponse, True)
DELETE_SNAPSHOT = Method(_S + "DeleteSnapshot", session_pb2.DeleteSnapshotRequest,
                         empty_pb2.Empty)
EXPORT_SNAPSHOT = Method(_S + "ExportSnapshot", session_pb2.ExportSnapshotRequest,
                         session_pb2.ExportSnapshotResponse)
IMPORT_SNAPSHOT = Method(_S + "ImportSnapshot", session_pb2.ImportSnapshotRequest,
                         session_pb2.Session)

LIST_MODELS = Method(_M + "ListModels", model_pb2.ListModelsRequest, model_pb2.ListModelsResponse,
                     True)
GET_MODEL = Method(_M + "GetModel", model_pb2.GetModelRequest, model_pb2.Model, True)
TOKENIZE = Method(_M + "Tokenize", model_pb2.TokenizeRequest, model_pb2.TokenizeResponse, True)
DETOKENIZE = Method(_M + "Detokenize", model_pb2.DetokenizeRequest, model_pb2.DetokenizeResponse,
                    True)

REPEATABLE = [
    CREATE_SESSION.path, GET_SESSION.path, LIST_SESSIONS.path, FORK_SESSION.path, GET_COMMIT.path,
    GET_SNAPSHOT.path, LIST_SNAPSHOTS.path, LIST_MODELS.path, GET_MODEL.path, TOKENIZE.path,
    DETOKENIZE.path
]
