"""What a reader has had of an answer, so that a repeat of the request shows only the rest."""

from __future__ import annotations

import hashlib
from typing import Iterable, List, Optional

from reprise_client.v1 import generation_pb2 as pb


class AnswerChanged(Exception):
    """The repeat gave other tokens."""


class Replay:
    """Follows one answer over several tries."""

    def __init__(self) -> None:
        self.ids: List[int] = []
        self._characters = 0
        self._next_id = 0  # in this try
        self._next_character = 0

    def restart(self) -> None:
        """A new try begins at the first token."""
        self._next_id = self._next_character = 0

    def new_part(self, tokens: pb.Tokens) -> Optional[pb.Tokens]:
        """The part of an event that the reader has not had; None if there is none. Raises
        AnswerChanged."""
        known = min(len(tokens.ids), len(self.ids) - self._next_id)
        if list(tokens.ids[:known]) != self.ids[self._next_id:self._next_id + known]:
            raise AnswerChanged()
        self._next_id += len(tokens.ids)
        self.ids.extend(tokens.ids[known:])
        text = self._new_text(tokens.text)
        if known == 0 and text == tokens.text:
            return tokens
        if known == len(tokens.ids) and not text:
            return None
        return pb.Tokens(ids=tokens.ids[known:], text=text, logprobs=tokens.logprobs[known:],
                         replayed=tokens.replayed)

    def finish(self, finished: pb.Finished) -> pb.Finished:
        """The last message, without text that the reader has had."""
        text = self._new_text(finished.text)
        if text == finished.text:
            return finished
        shortened = pb.Finished()
        shortened.CopyFrom(finished)
        shortened.text = text
        return shortened

    def _new_text(self, text: str) -> str:
        known = min(len(text), self._characters - self._next_character)
        self._next_character += len(text)
        self._characters = max(self._characters, self._next_character)
        return text[known:]


def chain_hash(ids: Iterable[int], start: str = "") -> str:
    """`Snapshot.token_hash` of a sequence: h' = SHA-256(h, token as i32), hex. `start` is that of
    what comes before; empty: nothing."""
    digest = bytes.fromhex(start) if start else bytes(32)
    for token in ids:
        digest = hashlib.sha256(digest + token.to_bytes(4, "little", signed=True)).digest()
    return digest.hex()
