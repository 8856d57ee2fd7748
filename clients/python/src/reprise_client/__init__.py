"""Client of a Reprise server: language models whose conversations are a fixed number of bytes.

    from reprise_client import Client

    with Client("127.0.0.1:7420") as client:
        with client.session("story") as session:
            for text in session.generate("Once upon a time", max_tokens=40).texts():
                print(text, end="", flush=True)

`AsyncClient` is the same for asyncio.
"""

from reprise_client._async.choices import AsyncChoices
from reprise_client._async.client import AsyncClient
from reprise_client._async.generation import AsyncGeneration
from reprise_client._async.session import AsyncSession
from reprise_client._sync.choices import Choices
from reprise_client._sync.client import Client
from reprise_client._sync.generation import Generation
from reprise_client._sync.session import Session
from reprise_client.errors import (AlreadyExists, AnswerInterrupted, Cancelled, Conflict,
                                   DeadlineExceeded, FailedPrecondition, InvalidRequest, NotFound,
                                   PermissionDenied, RepriseError, ResourceExhausted, ServerFault,
                                   Unauthenticated, Unavailable, Unimplemented)
from reprise_client.options import Retry, Tls
from reprise_client.requests import GenerateOptions
from reprise_client.results import Fed, Result, Score

__all__ = [
    "AlreadyExists", "AnswerInterrupted", "AsyncChoices", "AsyncClient", "AsyncGeneration",
    "AsyncSession", "Cancelled", "Choices", "Client", "Conflict", "DeadlineExceeded", "FailedPrecondition", "Fed",
    "GenerateOptions", "Generation", "InvalidRequest", "NotFound", "PermissionDenied",
    "RepriseError", "ResourceExhausted", "Result", "Retry", "Score", "ServerFault", "Session",
    "Tls", "Unauthenticated", "Unavailable", "Unimplemented"
]
