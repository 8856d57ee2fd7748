"""What differs between the two clients beyond their keywords; _sync has the other side."""

from __future__ import annotations

import asyncio
from typing import Any, Awaitable, Callable, Iterable, List, TypeVar

import grpc
import grpc.aio

Item = TypeVar("Item")
Output = TypeVar("Output")

Channel = grpc.aio.Channel
StreamCall = grpc.aio.UnaryStreamCall[Any, Any]

# What a call that was cancelled here raises beside grpc.RpcError.
LocalCancel = asyncio.CancelledError

sleep = asyncio.sleep


def insecure_channel(address: str, options: Any) -> Channel:
    return grpc.aio.insecure_channel(address, options)


def secure_channel(address: str, credentials: grpc.ChannelCredentials, options: Any) -> Channel:
    return grpc.aio.secure_channel(address, credentials, options)


async def run_all(work: Callable[[Item], Awaitable[Output]], items: Iterable[Item],
                  limit: int) -> List[Output]:
    """`work` for all items, at most `limit` at once; results in the items' order. The first failure
    cancels the others, and is raised when all have ended."""
    places = asyncio.Semaphore(limit)

    async def one(item: Item) -> Output:
        async with places:
            return await work(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
