"""A running answer, over as many tries as it takes."""

from __future__ import annotations

import time
from typing import AsyncIterator, List, Optional

import grpc
from reprise_client import methods
from reprise_client._async import runtime
from reprise_client._async.connection import AsyncConnection, is_lost
from reprise_client._async.tries import ENDINGS, AsyncTries
from reprise_client.errors import AnswerInterrupted, Conflict, RepriseError, Unavailable
from reprise_client.replay import Replay
from reprise_client.requests import new_seed
from reprise_client.results import Result
from reprise_client.v1 import generation_pb2 as pb
from reprise_client.v1 import model_pb2, session_pb2


class AsyncGeneration(AsyncTries):
    """A running answer. Iterate over it for `Tokens` messages as they arrive, or over `texts()`, or
    wait for `result()`. After the last event `finished` is there. `cancel()` may be called from
    elsewhere; all else is for one reader.

    When the connection is lost or the server shuts down, the request is sent again, to another
    replica if there is one, and the reader gets the rest of the same answer: a request without a
    session repeats its seed; a turn of a session repeats its request_id. A turn that the server
    had committed meanwhile, wholly or, when it noticed that the client was gone, in part, is not
    repeated: AnswerInterrupted has its commit. With `resumable` it is taken back and repeated.
    """

    def __init__(self, connection: AsyncConnection, request: pb.GenerateRequest, *,
                 timeout: Optional[float], resumable: bool):
        super().__init__(connection, request, timeout=timeout,
                         repeats=connection.retry.seconds > 0 or resumable)
        self.finished: Optional[pb.Finished] = None
        self._resumable = resumable
        self._seen = Replay()
        self._trying_since: Optional[float] = None
        self._times_taken_back = 0
        self._start_snapshot = ""  # of a resumable turn
        self._snapshot_is_ours = False
        self._first_id = ""
        if not resumable:
            self._start()

    async def __aiter__(self) -> AsyncIterator[pb.Tokens]:
        if self._resumable and self._call is None:
            await self._prepare()
            self._start()
        while self.finished is None:
            assert self._call is not None
            finished: Optional[pb.Finished] = None
            error: Optional[RepriseError] = None
            try:
                async for response in self._call:
                    if response.HasField("finished"):
                        finished = response.finished
                        continue
                    new = self._seen.new_part(response.tokens)
                    if new is not None:
                        self._trying_since = None  # it gets on
                        yield new
            except ENDINGS as ending:
                error = self._error_of(ending)
            if error is not None:
                await self._before_next_try(error)
            elif finished is not None and await self._accept(finished):
                self.finished = self._seen.finish(finished)
                await self._clean_up()
                return
            self._start()

    async def texts(self) -> AsyncIterator[str]:
        """Pieces of the text, the part that was held back until the end included."""
        async for tokens in self:
            if tokens.text:
                yield tokens.text
        if self.finished is not None and self.finished.text:
            yield self.finished.text

    async def result(self) -> Result:
        """Waits for the rest of the answer; call it instead of iterating."""
        text = ""
        ids: List[int] = []
        logprobs: List[pb.TokenLogprob] = []
        async for tokens in self:
            text += tokens.text
            ids.extend(tokens.ids)
            logprobs.extend(tokens.logprobs)
        assert self.finished is not None
        return Result(text + self.finished.text, ids, logprobs, self.finished)

    def _start(self) -> None:
        self._seen.restart()
        self._send()

    async def _before_next_try(self, error: RepriseError) -> None:
        """Waits until it makes sense to try again, or raises `error`."""
        now = time.monotonic()
        retry = self._connection.retry
        lost = is_lost(error) and not self._cancelled
        if lost:
            self._connection.avoid(self._address)
        # The try that was cut off may still hold the session.
        busy = self._tries > 1 and isinstance(error, Conflict) and error.reason == "SESSION_BUSY"
        if self._trying_since is None:
            self._trying_since = now
            self._tries = 1
        give_up = self._trying_since + retry.seconds
        delay = retry.delay(self._tries)
        if self._cancelled or not (lost or busy) or now + delay > give_up or (
                self._deadline is not None and now + delay > self._deadline):
            raise error
        await runtime.sleep(delay)
        if self._cancelled:
            raise error

    async def _accept(self, finished: pb.Finished) -> bool:
        """Whether this end is the answer's; if not, all is ready for another try."""
        drained = finished.reason == pb.FINISH_REASON_DRAINED
        if not self._request.session:
            if not drained or self._connection.retry.seconds <= 0:
                return True
            await self._before_next_try(_drained())
            return False
        if finished.commit.already_committed:
            only_fed = (self._request.stop.HasField("max_tokens") and
                        self._request.stop.max_tokens == 0)
            if self._tries == 1 or only_fed:
                return True  # the caller repeats a turn, or there is no answer
            if not self._resumable:
                raise AnswerInterrupted(
                    "the turn was committed, and part of its answer did not arrive",
                    finished.commit)
        elif not drained or not self._resumable:
            return True
        await self._take_back(finished.commit)
        if drained:
            await self._before_next_try(_drained())
        return False

    async def _prepare(self) -> None:
        """Makes sure that there is a snapshot to go back to."""
        request = self._request
        if not request.session:
            return
        self._first_id = request.request_id
        call = self._connection.call
        get = session_pb2.GetSessionRequest(name=request.session)
        session = await call(methods.GET_SESSION, get, key=self._key)
        if not session.head_snapshot:
            await self._feed_first_token(session)
            session = await call(methods.GET_SESSION, get, key=self._key)
        head = await call(methods.GET_SNAPSHOT,
                          session_pb2.GetSnapshotRequest(name=session.head_snapshot),
                          key=self._key)
        if not head.retained:
            head = await call(methods.CREATE_SNAPSHOT,
                              session_pb2.CreateSnapshotRequest(session=request.session),
                              key=self._key, repeatable=True)
            self._snapshot_is_ours = True
        if head.name != session.head_snapshot:
            raise Conflict(grpc.StatusCode.ABORTED, "another writer has moved the session")
        self._start_snapshot = head.name
        request.session_version = request.session_version or session.version

    async def _feed_first_token(self, session: session_pb2.Session) -> None:
        """Gives an empty session something to go back to: its first token, a turn of its own."""
        request = self._request
        model = request.model or session.model
        if request.WhichOneof("prompt") == "text":
            add_bos = request.add_bos if request.HasField("add_bos") else bool(request.text)
            answer = await self._connection.call(
                methods.TOKENIZE, model_pb2.TokenizeRequest(model=model, text=request.text,
                                                            add_bos=add_bos))
            request.tokens.ids.extend(answer.ids)
            request.ClearField("add_bos")
        if not request.tokens.ids:
            return  # the server says what is wrong with it
        if request.sampling.temperature > 0 and not request.sampling.HasField("seed"):
            request.sampling.seed = new_seed()
        first = pb.GenerateRequest(model=request.model, session=request.session,
                                   session_version=request.session_version,
                                   request_id=f"{self._first_id}.first",
                                   durability=request.durability
                                   if request.durability == pb.DURABILITY_SYNC else
                                   pb.DURABILITY_UNSPECIFIED)
        first.tokens.ids.append(request.tokens.ids[0])
        first.stop.max_tokens = 0
        fed = await AsyncGeneration(self._connection, first, timeout=self._connection.timeout,
                                    resumable=False).result()
        del request.tokens.ids[0]
        if not request.tokens.ids:
            request.ClearField("prompt")
        request.session_version = fed.finished.commit.version

    async def _take_back(self, commit: pb.TurnCommit) -> None:
        """Moves the session to before the turn, unless somebody else has moved it on."""
        self._times_taken_back += 1
        rewind = session_pb2.RewindSessionRequest(
            name=self._request.session, snapshot=self._start_snapshot,
            session_version=commit.version,
            request_id=f"{self._first_id}.back{self._times_taken_back}")
        try:
            session = await self._connection.call(methods.REWIND_SESSION, rewind, key=self._key,
                                                  repeatable=True)
        except Conflict as conflict:
            raise AnswerInterrupted("the turn was committed, part of its answer did not arrive, "
                                    f"and it cannot be taken back: {conflict.message}",
                                    commit) from None
        self._request.session_version = session.version
        self._request.request_id = f"{self._first_id}.{self._times_taken_back}"

    async def _clean_up(self) -> None:
        if not self._snapshot_is_ours:
            return
        try:
            await self._connection.call(
                methods.DELETE_SNAPSHOT,
                session_pb2.DeleteSnapshotRequest(name=self._start_snapshot), key=self._key,
                repeatable=True)
        except RepriseError:
            pass  # it goes with the session


def _drained() -> RepriseError:
    """What a drained answer would have been without its first token."""
    return Unavailable(grpc.StatusCode.UNAVAILABLE, "the server is shutting down", "DRAINING")
