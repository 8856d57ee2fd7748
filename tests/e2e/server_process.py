"""A `reprised` process of a test."""

import os
import pathlib
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("REPRISE_BUILD_DIR") or ROOT / "build" / "release").resolve()
START_SECONDS = 60


class ServerProcess:
    """Serves `model_dir` on `port` (0: a free one) with a store in `folder`, or the one that `store` names;
    start() after kill() or stop() serves the same store again, on another port if it was a free one."""

    def __init__(self, model_dir, folder, flags=(), store=None, port=0):
        self._model_dir = model_dir
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._flags = [str(flag) for flag in flags]
        self._store = store or f"disk:{self._folder / 'store'}"
        self._port = port
        self._process = None
        self.address = ""
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    def start(self):
        self._signalled = False
        port_file = self._folder / "port"
        port_file.unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [str(BUILD / "service" / "reprised"), "--model", f"test={self._model_dir}",
                 "--listen", f"127.0.0.1:{self._port}", "--store", self._store,
                 "--port-file", str(port_file), "--threads", "2", *self._flags],
                stdout=log, stderr=log)
        give_up = time.monotonic() + START_SECONDS
        while not (port_file.exists() and port_file.read_text().strip()):
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError("reprised did not start:\n" + self.log.read_text())
            time.sleep(0.02)
        self.address = f"127.0.0.1:{int(port_file.read_text())}"

    @property
    def pid(self):
        return self._process.pid

    @property
    def log(self):
        return self._folder / "log"

    def kill(self):
        """As a crash does: no time to say goodbye."""
        self._end(signal.SIGKILL)

    def stop(self):
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def pause(self):
        """SIGSTOP: it does not know that time goes on."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def drain(self):
        """SIGTERM without waiting; stop() after it waits."""
        self._process.send_signal(signal.SIGTERM)
        self._signalled = True

    def _end(self, number):
        if self._process is None:
            return None
        # A second SIGTERM would end a server that drains.
        if self._process.poll() is None and not (self._signalled and number == signal.SIGTERM):
            self._process.send_signal(number)
        try:
            code = self._process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None
        return code
