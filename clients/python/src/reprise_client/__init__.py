"""Client of a Reprise server: language models whose conversations are a fixed number of bytes.

    from reprise_client import Client

    with Client("127.0.0.1:7420") as client:
        session = client.create_session("story")
        for text in client.generate("Once upon a time", session="story", max_tokens=40).texts():
            print(text, end="", flush=True)
"""

from reprise_client.client import Client
from reprise_client.errors import (AlreadyExists, Cancelled, Conflict, DeadlineExceeded,
                                   FailedPrecondition, InvalidRequest, NotFound, PermissionDenied,
                                   RepriseError, ResourceExhausted, ServerFault, Unavailable,
                                   Unimplemented)
from reprise_client.generation import Generation, Result, Score

__all__ = [
    "AlreadyExists", "Cancelled", "Client", "Conflict", "DeadlineExceeded", "FailedPrecondition",
    "Generation", "InvalidRequest", "NotFound", "PermissionDenied", "RepriseError",
    "ResourceExhausted", "Result", "Score", "ServerFault", "Unavailable", "Unimplemented"
]
