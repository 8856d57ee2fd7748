"""Failures in the shape that clients of OpenAI's API know."""

from __future__ import annotations

import math
from typing import Any, Dict, Optional, Type

import reprise_client as rc
from starlette.responses import JSONResponse


class HttpError(Exception):
    """Becomes the answer of a request. `param` names the field that is wrong."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error",
                 param: Optional[str] = None, code: Optional[str] = None,
                 retry_after: Optional[float] = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> Dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param,
                          "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


class BadField(HttpError):

    def __init__(self, param: str, message: str, code: Optional[str] = None):
        super().__init__(400, f"{param}: {message}", param=param, code=code)


# (class, status, type); the first that fits.
_KINDS: "list[tuple[Type[rc.RepriseError], int, str]]" = [
    (rc.InvalidRequest, 400, "invalid_request_error"),
    (rc.NotFound, 404, "invalid_request_error"),
    (rc.Conflict, 409, "conflict_error"),
    (rc.AlreadyExists, 409, "conflict_error"),
    (rc.FailedPrecondition, 409, "conflict_error"),
    (rc.ResourceExhausted, 429, "rate_limit_error"),
    (rc.Unauthenticated, 401, "authentication_error"),
    (rc.PermissionDenied, 403, "permission_error"),
    (rc.Unavailable, 503, "service_unavailable_error"),
    (rc.DeadlineExceeded, 504, "timeout_error"),
    (rc.Unimplemented, 501, "invalid_request_error"),
]

# What OpenAI calls some reasons.
_CODES = {"PROMPT_TOO_LONG": "context_length_exceeded", "MODEL_NOT_FOUND": "model_not_found",
          "QUEUE_FULL": "rate_limit_exceeded"}

# Fields of GenerateRequest under the names of the JSON body.
_PARAMS = {"tokens": "prompt", "text": "prompt", "stop_strings": "stop"}


def from_reprise(error: rc.RepriseError) -> HttpError:
    """The answer for what the server said."""
    status, kind = next(((s, k) for cls, s, k in _KINDS if isinstance(error, cls)),
                        (500, "server_error"))
    param = None
    if error.fields:
        parts = error.fields[0][0].split("[", 1)[0].split(".")
        param = _PARAMS.get(parts[0], _PARAMS.get(parts[-1], parts[-1]))
    elif error.reason == "MODEL_NOT_FOUND":
        param = "model"
    elif error.reason == "PROMPT_TOO_LONG":
        param = "prompt"
    elif error.reason == "SESSION_NOT_FOUND":
        param = "session"
    code = _CODES.get(error.reason, error.reason.lower() or None)
    retry_after = error.retry_after
    if retry_after is None and status in (429, 503):
        retry_after = 1.0
    return HttpError(status, error.message, kind=kind, param=param, code=code,
                     retry_after=retry_after)
