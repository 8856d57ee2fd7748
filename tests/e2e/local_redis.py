"""A `redis-server` that tests stop, pause and restart, in the clear or under TLS."""

import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest

START_SECONDS = 30


class LocalRedis:
    """On a free port of loopback, with its append-only file in `folder`; start() after kill() serves
    the same data on the same port. With `tls` nothing but TLS is spoken there."""

    def __init__(self, folder, *arguments, tls=False):
        if shutil.which("redis-server") is None:
            pytest.fail("redis-server is missing; tools/install_dependencies.sh --tests brings it")
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._arguments = [str(argument) for argument in arguments]
        self._tls = tls
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.kill()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        listen = ["--port", "0", "--tls-port"] if self._tls else ["--port"]
        self._process = subprocess.Popen(
            ["redis-server", *listen, str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder),
             "--save", "", "--appendonly", "yes", "--appendfsync", "no", *self._arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise
                time.sleep(0.02)

    def kill(self):
        """What it had not written to its file is gone; a machine that lives on keeps the rest."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self):
        self._process.send_signal(signal.SIGSTOP)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def do(self, *command):
        """One command through redis-cli; its output."""
        done = subprocess.run(["redis-cli", "-p", str(self.port), *map(str, command)], text=True,
                              capture_output=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
