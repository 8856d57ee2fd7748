"""A `redis-server` process of a test, and the few bytes of protocol that a test needs to look into it."""

import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest

START_SECONDS = 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisProcess:
    """On loopback; writes every command to its log before it answers, so kill() loses nothing."""

    def __init__(self, folder, flags=()):
        assert shutil.which("redis-server"), "tools/install_dependencies.sh --tests installs it"
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._flags = [str(flag) for flag in flags]
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.kill()

    def start(self):
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
             "--dir", str(self._folder), "--save", "", "--appendonly", "yes",
             "--appendfsync", "always", *self._flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                if self.do("PING") == b"PONG":
                    return
            except (OSError, RuntimeError):
                pass
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.02)

    def kill(self):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def do(self, *command):
        """One command; strings are bytes, an error reply is a RuntimeError."""
        parts = [p if isinstance(p, bytes) else str(p).encode() for p in command]
        request = b"*%d\r\n" % len(parts)
        for part in parts:
            request += b"$%d\r\n%s\r\n" % (len(part), part)
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                return self._reply(stream)

    def _reply(self, stream):
        line = stream.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("the connection ended")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._reply(stream) for _ in range(int(rest))]
        return rest


# For modules that import them; conftest.py's `redis` is another kind of process.


@pytest.fixture
def redis(tmp_path):
    with RedisProcess(tmp_path / "redis") as process:
        yield process


@pytest.fixture
def other_redis(tmp_path):
    with RedisProcess(tmp_path / "other-redis") as process:
        yield process
