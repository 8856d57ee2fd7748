# Made from _async/tries.py by make_sync.py: edit there.
"""The calls that one Generate request takes."""

from __future__ import annotations

import time
from typing import Optional

import grpc
from reprise_client import methods
from reprise_client._sync import runtime
from reprise_client._sync.connection import Connection
from reprise_client.errors import AnswerInterrupted, Cancelled, RepriseError, from_rpc_error
from reprise_client.names import session_id
from reprise_client.replay import AnswerChanged
from reprise_client.requests import make_repeatable
from reprise_client.v1 import generation_pb2 as pb

# What may end a call before its stream does.
ENDINGS = (grpc.RpcError, AnswerChanged, runtime.LocalCancel)


class Tries:
    """One request, sent by one call after the other until the answer is whole."""

    _CHANGED = "another answer"  # that a repeated request gave

    def __init__(self, connection: Connection, request: pb.GenerateRequest, *,
                 timeout: Optional[float], repeats: bool):
        self._connection = connection
        self._request = request
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._key = session_id(request.session)
        self._cancelled = False
        self._tries = 0
        self._address = ""
        self._call: Optional[runtime.StreamCall] = None
        if repeats:
            make_repeatable(request)

    def cancel(self) -> None:
        """Ends what is generated within a step. A session keeps the tokens that there are."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    def _send(self) -> None:
        remaining = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        self._tries += 1
        self._address, self._call = self._connection.stream(methods.GENERATE, self._request,
                                                            key=self._key, timeout=remaining)

    def _error_of(self, ending: BaseException) -> RepriseError:
        """What one of ENDINGS means for the answer; raises what no further try can mend."""
        if isinstance(ending, grpc.RpcError):
            return from_rpc_error(ending)
        if isinstance(ending, AnswerChanged):
            assert self._call is not None
            self._call.cancel()
            raise AnswerInterrupted(f"the repeated request gave {self._CHANGED}; a seed makes "
                                    "it repeatable") from None
        if not self._cancelled:
            raise ending  # the task was cancelled, not this
        return Cancelled(grpc.StatusCode.CANCELLED, "cancelled")
