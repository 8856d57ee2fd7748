# Made from _async/choices.py by make_sync.py: edit there.
"""Several answers to one prompt, which is computed once."""

from __future__ import annotations

import time
from typing import Iterator, Dict, List, Optional, Set, Tuple, Union

from reprise_client._sync import runtime
from reprise_client._sync.connection import Connection, is_lost
from reprise_client._sync.tries import ENDINGS, Tries
from reprise_client.errors import RepriseError
from reprise_client.replay import Replay
from reprise_client.results import Result
from reprise_client.v1 import generation_pb2 as pb


class Choices(Tries):
    """Running answers to one prompt. Iterate over it for pairs of a choice's number and what comes of
    it, `Tokens` messages and in the end its `Finished`; or wait for `results()`. `cancel()` may be
    called from elsewhere; all else is for one reader.

    Without a session, a request whose connection is lost is sent again, and the reader gets the rest
    of the same answers.
    """

    _CHANGED = "other answers"

    def __init__(self, connection: Connection, request: pb.GenerateRequest, *,
                 timeout: Optional[float]):
        super().__init__(connection, request, timeout=timeout, repeats=connection.retry.seconds > 0)
        self._seen: Dict[int, Replay] = {}
        self._finished: Set[int] = set()
        self._give_up: Optional[float] = None
        self._start()

    def __iter__(self) -> Iterator[Tuple[int, Union[pb.Tokens, pb.Finished]]]:
        while True:
            assert self._call is not None
            try:
                for response in self._call:
                    self._give_up = None  # it gets on
                    if response.HasField("tokens"):
                        choice = response.tokens.choice
                        new = self._seen.setdefault(choice, Replay()).new_part(response.tokens)
                        if new is not None:
                            new.choice = choice
                            yield choice, new
                    elif response.finished.choice not in self._finished:
                        choice = response.finished.choice
                        self._finished.add(choice)
                        yield choice, self._seen.setdefault(choice, Replay()).finish(
                            response.finished)
                return
            except ENDINGS as ending:
                error = self._error_of(ending)
            self._before_next_try(error)
            self._start()

    def results(self) -> List[Result]:
        """Waits for the rest of all answers, in the order of their numbers; call it instead of
        iterating."""
        found: Dict[int, Result] = {}
        for choice, event in self:
            result = found.setdefault(choice, Result("", [], [], pb.Finished()))
            result.text += event.text
            if isinstance(event, pb.Finished):
                result.finished = event
            else:
                result.ids.extend(event.ids)
                result.logprobs.extend(event.logprobs)
        return [found[choice] for choice in sorted(found)]

    def _start(self) -> None:
        for seen in self._seen.values():
            seen.restart()
        self._send()

    def _before_next_try(self, error: RepriseError) -> None:
        """Waits until it makes sense to try again, or raises `error`."""
        if self._cancelled or not is_lost(error):
            raise error
        self._connection.avoid(self._address)
        now = time.monotonic()
        if self._give_up is None:
            self._give_up = now + self._connection.retry.seconds
            self._tries = 1
        delay = self._connection.retry.delay(self._tries)
        # A turn may have been committed, and its answers are not to be had again.
        if self._request.session or now + delay > self._give_up:
            raise error
        runtime.sleep(delay)
        if self._cancelled:
            raise error
