"""What differs between the two clients beyond their keywords; _async has the other side."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any, Callable, Iterable, List, TypeVar

import grpc

Item = TypeVar("Item")
Output = TypeVar("Output")

Channel = grpc.Channel
StreamCall = Any  # an iterator with cancel()


class LocalCancel(Exception):
    """Never raised: a blocking call that was cancelled raises grpc.RpcError."""


sleep = time.sleep


def insecure_channel(address: str, options: Any) -> Channel:
    return grpc.insecure_channel(address, options)


def secure_channel(address: str, credentials: grpc.ChannelCredentials, options: Any) -> Channel:
    return grpc.secure_channel(address, credentials, options)


def run_all(work: Callable[[Item], Output], items: Iterable[Item], limit: int) -> List[Output]:
    """`work` for all items in threads, at most `limit` at once; results in the items' order. After
    the first failure nothing more is begun, and it is raised when all have ended."""
    with concurrent.futures.ThreadPoolExecutor(limit) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
