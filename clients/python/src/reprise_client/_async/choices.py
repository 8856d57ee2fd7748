"""Several answers to one prompt, which is computed once."""

from __future__ import annotations

import itertools
import time
from typing import Dict, List, Optional

import grpc
import grpc.aio
from reprise_client import methods
from reprise_client._async import runtime
from reprise_client._async.connection import AsyncConnection, is_lost
from reprise_client.errors import from_rpc_error
from reprise_client.names import session_id
from reprise_client.requests import make_repeatable
from reprise_client.results import Result
from reprise_client.v1 import generation_pb2 as pb


async def choices(connection: AsyncConnection, request: pb.GenerateRequest, *,
                  timeout: Optional[float]) -> List[Result]:
    """See AsyncClient.choices."""
    start = time.monotonic()
    if connection.retry.seconds > 0:
        make_repeatable(request)
    for attempt in itertools.count(1):
        remaining = None if timeout is None else max(0.0, start + timeout - time.monotonic())
        address, call = connection.stream(methods.GENERATE, request,
                                          key=session_id(request.session), timeout=remaining)
        found: Dict[int, Result] = {}
        try:
            async for response in call:
                if response.HasField("tokens"):
                    result = _of(found, response.tokens.choice)
                    result.text += response.tokens.text
                    result.ids.extend(response.tokens.ids)
                    result.logprobs.extend(response.tokens.logprobs)
                else:
                    result = _of(found, response.finished.choice)
                    result.text += response.finished.text
                    result.finished = response.finished
            return [found[choice] for choice in sorted(found)]
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
        if is_lost(error):
            connection.avoid(address)
        delay = connection.retry.delay(attempt)
        # A turn may have been committed, and its answers are not to be had again.
        if request.session or not is_lost(error) or (time.monotonic() + delay
                                                     > start + connection.retry.seconds):
            raise error
        await runtime.sleep(delay)
    raise AssertionError("unreachable")


def _of(found: Dict[int, Result], choice: int) -> Result:
    return found.setdefault(choice, Result("", [], [], pb.Finished()))
