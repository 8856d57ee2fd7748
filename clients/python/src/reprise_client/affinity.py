"""Which replica a session's calls go to. A hint only: any replica can take any call."""

from __future__ import annotations

import bisect
import hashlib
import threading
import time
from typing import Callable, Dict, List, Sequence

POINTS_PER_ADDRESS = 64


class HashRing:
    """Consistent hashing: a key keeps its address when others come or go. All clients that know the
    same addresses agree. Immutable."""

    def __init__(self, servers: Sequence[str]):
        self._points = sorted((_hash(f"{address}#{i}"), address) for address in servers
                              for i in range(POINTS_PER_ADDRESS))
        self._count = len(set(servers))

    def order(self, key: str) -> List[str]:
        """All addresses, the key's own first, then those to fall back to."""
        start = bisect.bisect(self._points, (_hash(key), ""))
        found: Dict[str, None] = {}
        for i in range(len(self._points)):
            found.setdefault(self._points[(start + i) % len(self._points)][1])
            if len(found) == self._count:
                break
        return list(found)


class Chooser:
    """The ring, and who has not answered lately. Thread-safe."""

    def __init__(self, servers: Sequence[str], avoid_seconds: float = 5.0,
                 now: Callable[[], float] = time.monotonic):
        self._servers = list(servers)
        self._ring = HashRing(servers)
        self._avoid_seconds = avoid_seconds
        self._now = now
        self._lock = threading.Lock()
        self._avoid_until: Dict[str, float] = {}
        self._turn = 0

    def order(self, key: str) -> List[str]:
        """All addresses, best first: a session's own, or the next in turn; those that have not
        answered lately last."""
        with self._lock:
            if key:
                order = self._ring.order(key)
            else:
                self._turn += 1
                start = self._turn % len(self._servers)
                order = self._servers[start:] + self._servers[:start]
            now = self._now()
            return sorted(order, key=lambda address: self._avoid_until.get(address, 0.0) > now)

    def avoid(self, address: str) -> None:
        with self._lock:
            self._avoid_until[address] = self._now() + self._avoid_seconds

    def answered(self, address: str) -> None:
        with self._lock:
            self._avoid_until.pop(address, None)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
