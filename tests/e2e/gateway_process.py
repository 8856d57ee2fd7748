"""A `reprise-gateway` process of a test."""

import os
import subprocess
import sys
import time

from server_process import ROOT, START_SECONDS

SOURCES = [ROOT / "clients" / "gateway" / "src", ROOT / "clients" / "python" / "src"]


class GatewayProcess:
    """Fronts `server` on a free port; `url` is what clients of OpenAI's API call their base."""

    def __init__(self, server, folder, *flags):
        folder.mkdir(parents=True, exist_ok=True)
        port_file = folder / "port"
        self.log = folder / "log"
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "reprise_gateway.main", "--listen", "127.0.0.1:0",
                 "--server", server, "--port-file", str(port_file), *map(str, flags)],
                stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SOURCES))})
        give_up = time.monotonic() + START_SECONDS
        while not port_file.exists():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.stop()
                raise RuntimeError("reprise-gateway did not start:\n" + self.log.read_text())
            time.sleep(0.02)
        self.root = f"http://127.0.0.1:{int(port_file.read_text())}"
        self.url = f"{self.root}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        self._process.terminate()
        return self._process.wait(timeout=40)
