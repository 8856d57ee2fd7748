# Made from _async/connection.py by make_sync.py: edit there.
"""Channels to one or several replicas, and calls that find their way to one of them."""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
from typing import Any, Iterator, Dict, Iterable, List, Optional, Sequence, Tuple, TypeVar

import grpc
from google.protobuf.message import Message
from reprise_client import options
from reprise_client._sync import runtime
from reprise_client.affinity import Chooser
from reprise_client.errors import (Cancelled, DeadlineExceeded, RepriseError, Unavailable,
                                    from_rpc_error)
from reprise_client.methods import Method

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


def is_lost(error: RepriseError) -> bool:
    """No answer, or from a server that is shutting down or cannot compute any more: another try may
    find a better one. gRPC itself says CANCELLED, without a reason, for calls that reach a server as
    it closes."""
    if isinstance(error, Cancelled):
        return not error.reason
    return isinstance(error, Unavailable) and error.reason in ("", "DRAINING", "DEVICE_FAILED")


@contextlib.contextmanager
def typed_errors() -> Iterator[None]:
    """Turns gRPC's exceptions into ours."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None


class Connection:
    """Keeps one channel per replica. `key`, where calls have one, is the session's id: its calls go
    to one replica as long as that answers, which then has its state at hand."""

    def __init__(self, target: Any, *, timeout: float, tls: Optional[options.Tls],
                 token: Optional[options.Token], allow_plaintext_token: bool,
                 retry: options.Retry, keepalive_seconds: float,
                 channel: Optional[runtime.Channel]):
        self.timeout = timeout
        self.retry = retry
        self._token = token
        self._plaintext: Sequence[str] = ()  # addresses that a token would reach unencrypted
        self._owned: List[runtime.Channel] = []
        self._channels: Dict[str, runtime.Channel] = {}
        self._multicallables: Dict[Tuple[str, str], Any] = {}
        if channel is not None:
            self._channels["channel"] = channel
        else:
            servers = options.addresses(target)
            if tls is None and not allow_plaintext_token:
                self._plaintext = servers
                if token is not None:
                    options.check_token_is_safe(servers)
            credentials = tls.credentials() if tls is not None else None
            arguments = options.channel_options(retry.seconds > 0, len(servers),
                                                keepalive_seconds, tls)
            for address in servers:
                opened = (runtime.insecure_channel(address, arguments) if credentials is None else
                          runtime.secure_channel(address, credentials, arguments))
                self._channels[address] = opened
                self._owned.append(opened)
        self._chooser = Chooser(list(self._channels))

    def with_token(self, token: options.Token) -> Connection:
        """The same channels in somebody else's name; its close() leaves them open."""
        options.check_token_is_safe(self._plaintext)
        other = copy.copy(self)
        other._token = token
        other._owned = []
        return other

    def close(self) -> None:
        for channel in self._owned:
            channel.close()

    def call(self, method: Method[Request, Response], request: Request, *, key: str = "",
                   repeatable: Optional[bool] = None) -> Response:
        """One call and its answer. If it can be repeated and its replica is lost, the next is
        asked, and all of them again until `retry` or the timeout is over."""
        repeatable = method.repeatable if repeatable is None else repeatable
        start = time.monotonic()
        lost: Optional[RepriseError] = None
        give_up = start + min(self.retry.seconds, self.timeout)
        for attempt in itertools.count():
            address = self._chooser.order(key)[0]
            call = self._multicallable(address, method, "unary_unary")
            remaining = start + self.timeout - time.monotonic()
            try:
                response: Response = call(request, timeout=max(0.0, remaining),
                                                metadata=self.metadata(key))
                self._chooser.answered(address)
                return response
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error)
            if not is_lost(error):
                raise lost if lost and isinstance(error, DeadlineExceeded) else error
            lost = error
            self._chooser.avoid(address)
            # A server that drains has refused before it began. Each replica is asked at once, then
            # with pauses.
            rounds = attempt // len(self._channels)
            delay = self.retry.delay(rounds) if rounds > 0 else 0.0
            if not (repeatable or error.reason == "DRAINING") or (time.monotonic() + delay
                                                                  >= give_up):
                raise error
            if delay > 0:
                runtime.sleep(delay)
        raise AssertionError("unreachable")

    def stream(self, method: Method[Request, Response], request: Request, *, key: str = "",
               timeout: Optional[float] = None) -> Tuple[str, runtime.StreamCall]:
        """A started call with many answers, and the address that it went to."""
        address = self._chooser.order(key)[0]
        call = self._multicallable(address, method, "unary_stream")
        return address, call(request, timeout=timeout, metadata=self.metadata(key))

    def avoid(self, address: str) -> None:
        """That address did not answer."""
        self._chooser.avoid(address)

    def upload(self, method: Method[Request, Response], requests: Iterable[Request], *,
                     key: str = "", timeout: Optional[float] = None) -> Response:
        """A call with many requests and one answer. Tried once."""
        call = self._multicallable(self._chooser.order(key)[0], method, "stream_unary")
        with typed_errors():
            response: Response = call(iter(requests), timeout=timeout,
                                            metadata=self.metadata(key))
        return response

    def metadata(self, key: str = "") -> Sequence[Tuple[str, str]]:
        """Of a call that concerns the session `key`: a proxy may choose its replica by that header."""
        found: List[Tuple[str, str]] = []
        if key and key.isascii() and key.isprintable():  # others are the server's to refuse
            found.append(("reprise-session", key))
        if self._token is not None:
            token = self._token if isinstance(self._token, str) else self._token()
            found.append(("authorization", f"Bearer {token}"))
        return found

    def _multicallable(self, address: str, method: Method[Any, Any], kind: str) -> Any:
        found = self._multicallables.get((address, method.path))
        if found is None:
            make = getattr(self._channels[address], kind)
            found = make(method.path, request_serializer=method.serialize,
                         response_deserializer=method.parse)
            self._multicallables[address, method.path] = found
        return found
