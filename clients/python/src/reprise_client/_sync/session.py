# Made from _async/session.py by make_sync.py: edit there.
"""A session as an object."""

from __future__ import annotations

import contextlib
from typing import (TYPE_CHECKING, Any, Iterator, Callable, Iterable, List,
                    Optional, TypeVar, Union)

from reprise_client import names
from reprise_client._sync import runtime
from reprise_client._sync.generation import Generation
from reprise_client.errors import NotFound
from reprise_client.progress import Progress
from reprise_client.requests import GenerateOptions, Prompt, Ttl
from reprise_client.results import Fed, Score
from reprise_client.v1 import session_pb2

if TYPE_CHECKING:
    from reprise_client._sync.client import Client
    from typing_extensions import Unpack

Item = TypeVar("Item")
Output = TypeVar("Output")


class Session:
    """One session of a client, as Client.session() and fork() give it. As a context manager it
    is deleted at the end unless `keep`.

    Attributes:
        name: "sessions/{id}".
        keep: whether the end of `with` leaves it alone.
    """

    def __init__(self, client: Client, name: str, keep: bool):
        self.name = names.session(name)
        self.keep = keep
        self._client = client

    @property
    def id(self) -> str:
        return names.session_id(self.name)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: Any) -> None:
        if not self.keep:
            try:
                self.delete()
            except NotFound:
                pass

    def generate(self, prompt: Prompt = None, *, resumable: bool = False,
                 timeout: Optional[float] = None,
                 **options: Unpack[GenerateOptions]) -> Generation:
        """A turn; see Client.generate."""
        return self._client.generate(prompt, session=self.name, resumable=resumable,
                                     timeout=timeout, **options)

    def score(self, prompt: Prompt, *, timeout: Optional[float] = None) -> Score:
        """How probable the text is after what the session has; it is appended."""
        return self._client.score(prompt, session=self.name, timeout=timeout)

    def feed(self, prompt: Prompt, *, chunk_tokens: int = 1024, resume: bool = True,
                   after: Union[None, str, session_pb2.Snapshot] = None,
                   add_bos: Optional[bool] = None, durability: str = "",
                   progress: Progress = None) -> Fed:
        """Feeds a long prompt; see Client.feed."""
        return self._client.feed(self.name, prompt, chunk_tokens=chunk_tokens, resume=resume,
                                       after=after, add_bos=add_bos, durability=durability,
                                       progress=progress)

    def get(self) -> session_pb2.Session:
        """What the server says of it now."""
        return self._client.get_session(self.name)

    def delete(self) -> None:
        self._client.delete_session(self.name)

    # The past.

    def snapshot(self) -> session_pb2.Snapshot:
        """Keeps the present state."""
        return self._client.create_snapshot(self.name)

    def snapshots(self) -> Iterator[session_pb2.Snapshot]:
        return self._client.list_snapshots(self.name)

    def rewind(self, snapshot: Union[str, session_pb2.Snapshot]) -> session_pb2.Session:
        """Goes back to one of its snapshots."""
        name = snapshot if isinstance(snapshot, str) else snapshot.name
        return self._client.rewind(self.name, names.snapshot(name, self.name))

    def export_to(self, path: str) -> int:
        """Writes the present state to a file; returns its size."""
        return self._client.export_to_file(self.name, path)

    # Futures.

    def fork(self, n: int = 1, *, keep: bool = False, ttl: Ttl = None) -> List[Session]:
        """`n` new sessions that stand where this one stands. Costs no copy of the state. Each is a
        context manager; forks() deletes them all. FailedPrecondition while the session is empty."""
        if n < 1:
            raise ValueError("n must be at least 1")
        # One snapshot for all, even if the session moves on meanwhile.
        source = (self.get()).head_snapshot or self.name
        forks: List[Session] = []
        try:
            for _ in range(n):
                made = self._client.fork(source, ttl=ttl)
                forks.append(Session(self._client, made.name, keep))
        except BaseException:
            _delete(forks)
            raise
        return forks

    @contextlib.contextmanager
    def forks(self, n: int, *, ttl: Ttl = None) -> Iterator[List[Session]]:
        """fork(n) for the length of a `with`; those whose `keep` is set meanwhile stay."""
        made = self.fork(n, ttl=ttl)
        try:
            yield made
        finally:
            _delete(made)

    def map_forks(self, work: Callable[[Session, Item], Output],
                        items: Iterable[Item], *, limit: int = 16,
                        ttl: Ttl = None) -> List[Output]:
        """`work(fork, item)` for each item, each with a fork of its own, at most `limit` at once;
        results in the items' order. The forks are deleted at the end but for those whose `keep`
        was set."""
        listed = list(items)
        if not listed:
            return []
        with self.forks(len(listed), ttl=ttl) as forks:
            return runtime.run_all(lambda pair: work(*pair), list(zip(forks, listed)), limit)


def _delete(forks: List[Session]) -> None:
    for fork in forks:
        if not fork.keep:
            try:
                fork.delete()
            except NotFound:
                pass
