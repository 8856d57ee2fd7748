"""What a failed call raises: one class per kind of failure, with the server's details."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple, Type

import grpc
from google.rpc import error_details_pb2, status_pb2
from reprise_client.v1 import generation_pb2


class RepriseError(Exception):
    """A failed call.

    Attributes:
        code: the gRPC status code.
        reason: the name of an ErrorReason of errors.proto, e.g. "SESSION_NOT_FOUND"; empty when the
            answer did not come from a Reprise server.
        message: what the server says, in words.
        fields: (name, what is wrong with it) for each refused field of the request.
        metadata: details of the reason, e.g. {"expected": "3", "found": "4"}.
        resource: the name of the model, session or snapshot that it is about, when there is one.
        retry_after: seconds after which a try makes sense, when the server says so.
        quota: (subject, which limit) for each quota that is used up.
    """

    def __init__(self, code: grpc.StatusCode, message: str, reason: str = "",
                 fields: Optional[List[Tuple[str, str]]] = None,
                 metadata: Optional[Dict[str, str]] = None,
                 resource: str = "", retry_after: Optional[float] = None,
                 quota: Optional[List[Tuple[str, str]]] = None):
        about = f" ({resource})" if resource.rsplit("/", 1)[-1] not in message else ""
        super().__init__(f"{code.name}{f' ({reason})' if reason else ''}: {message}{about}")
        self.code = code
        self.reason = reason
        self.message = message
        self.fields = fields or []
        self.metadata = metadata or {}
        self.resource = resource
        self.retry_after = retry_after
        self.quota = quota or []


class InvalidRequest(RepriseError):
    """The request is wrong in itself; `fields` says where."""


class NotFound(RepriseError):
    """No such model, session or snapshot."""


class AlreadyExists(RepriseError):
    """A session of that name exists."""


class Conflict(RepriseError):
    """Another turn or version won; nothing was changed. Look at the session and decide again."""


class AnswerInterrupted(Conflict):
    """The connection broke, and the answer could not be had again: see `Generation`. `commit` says
    what the session has now, if the turn was committed; a turn without a prompt goes on there."""

    def __init__(self, message: str, commit: Optional[generation_pb2.TurnCommit] = None):
        super().__init__(grpc.StatusCode.ABORTED, message, "ANSWER_INTERRUPTED")
        self.commit = commit


class FailedPrecondition(RepriseError):
    """The state does not allow it, e.g. a snapshot of another model."""


class ResourceExhausted(RepriseError):
    """The server is full; see `retry_after`."""


class Unavailable(RepriseError):
    """No connection, or the server is shutting down or without its store."""


class DeadlineExceeded(RepriseError):
    """The call's timeout is over."""


class Cancelled(RepriseError):
    """The call was cancelled."""


class PermissionDenied(RepriseError):
    """These credentials do not allow it."""


class Unauthenticated(PermissionDenied):
    """No credentials, or none that count."""


class Unimplemented(RepriseError):
    """This server does not offer that."""


class ServerFault(RepriseError):
    """A bug or damaged data on the server's side."""


_CLASSES: Dict[grpc.StatusCode, Type[RepriseError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
}


def from_rpc_error(error: grpc.RpcError) -> RepriseError:
    """The typed exception for what gRPC raised."""
    # What gRPC raises has these methods; its base class does not say so.
    code: grpc.StatusCode = getattr(error, "code")()
    message: str = getattr(error, "details")() or ""
    details = status_pb2.Status()
    for key, value in getattr(error, "trailing_metadata")() or ():
        if key == "grpc-status-details-bin":
            details.ParseFromString(value)
    reason, resource_name = "", ""
    metadata: Dict[str, str] = {}
    fields: List[Tuple[str, str]] = []
    quota: List[Tuple[str, str]] = []
    retry_after: Optional[float] = None
    for any_message in details.details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        resource = error_details_pb2.ResourceInfo()
        retry = error_details_pb2.RetryInfo()
        failure = error_details_pb2.QuotaFailure()
        if any_message.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif any_message.Unpack(bad_request):
            fields += [(v.field, v.description) for v in bad_request.field_violations]
        elif any_message.Unpack(resource):
            resource_name = resource.resource_name
        elif any_message.Unpack(retry):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos * 1e-9
        elif any_message.Unpack(failure):
            quota += [(v.subject, v.description) for v in failure.violations]
    error_class = _CLASSES.get(code, ServerFault)
    return error_class(code, message, reason, fields, metadata, resource_name, retry_after, quota)
