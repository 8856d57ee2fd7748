"""The fields of a JSON body, checked."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Set

from reprise_gateway.errors import BadField, HttpError


def parse_json(data: bytes) -> Dict[str, Any]:
    """HttpError 400 for what is no JSON object."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        body = json.loads(data, parse_constant=refuse)
        if b"\\ud" in data.lower():  # halves of characters are no text
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise HttpError(400, "the body must be a JSON object", code="invalid_json")
    return body


class Fields:
    """A body whose fields are taken one by one; null is as good as nothing. `done()` refuses what
    nobody has taken."""

    def __init__(self, body: Dict[str, Any]):
        self._body = body
        self._taken: Set[str] = set()

    def take(self, name: str) -> Any:
        self._taken.add(name)
        return self._body.get(name)

    def done(self) -> None:
        for name in self._body:
            if name not in self._taken:
                raise BadField(name, "unknown or not supported", "unknown_parameter")

    def ignore(self, *names: str) -> None:
        """Fields that say nothing about the answer."""
        self._taken.update(names)

    def refuse(self, name: str, *harmless: Any) -> None:
        """A field of OpenAI's that only its harmless values may have here."""
        value = self.take(name)
        if value is not None and value not in harmless:
            raise BadField(name, "not supported", "unsupported_parameter")

    def number(self, name: str, default: float) -> float:
        value = self.optional_number(name)
        return default if value is None else value

    def optional_number(self, name: str) -> Optional[float]:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadField(name, "must be a number")
        try:
            return float(value)
        except OverflowError:
            raise BadField(name, "is too large") from None

    def integer(self, name: str, low: int, high: int) -> Optional[int]:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadField(name, f"must be an integer from {low} to {high}")
        return value

    def boolean(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise BadField(name, "must be true or false")
        return bool(value)

    def string(self, name: str) -> str:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise BadField(name, "must be a string")
        return value or ""

    def strings(self, name: str) -> List[str]:
        """One string or a list of them."""
        value = self.take(name)
        if value is None:
            return []
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
            raise BadField(name, "must be a string or a list of strings")
        return listed

    def object(self, name: str) -> Dict[str, Any]:
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            raise BadField(name, "must be an object")
        return value or {}
