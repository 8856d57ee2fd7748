"""What gRPC says when a call reaches a server at the moment at which it closes."""

import grpc
from reprise_client._sync.connection import is_lost
from reprise_client.errors import Cancelled, Unavailable


def test_a_cancel_that_nobody_asked_for_is_a_lost_server():
    assert is_lost(Cancelled(grpc.StatusCode.CANCELLED, "CANCELLED"))
    assert is_lost(Unavailable(grpc.StatusCode.UNAVAILABLE, "connection refused"))
    # The server's own word: the sequence was cancelled there.
    assert not is_lost(Cancelled(grpc.StatusCode.CANCELLED, "cancelled", "CANCELLED"))
    assert not is_lost(Unavailable(grpc.StatusCode.UNAVAILABLE, "no store", "STORE_UNAVAILABLE"))
