"""A real Prometheus that scrapes servers under test, in a folder of its own on loopback."""

import json
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

START_SECONDS = 60
SCRAPE_SECONDS = 1

CONFIG = """
global: {{scrape_interval: {seconds}s, scrape_timeout: {seconds}s, evaluation_interval: {seconds}s}}
rule_files: {rules}
scrape_configs:
  - job_name: reprise
    static_configs: [{{targets: {targets}}}]
"""


def installed():
    return shutil.which("prometheus") is not None


class LocalPrometheus:
    """Scrapes `targets` ("host:port") each second and evaluates the rules in `rule_files`."""

    def __init__(self, folder, targets, rule_files=()):
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "prometheus.yaml"
        config.write_text(CONFIG.format(seconds=SCRAPE_SECONDS, targets=json.dumps(list(targets)),
                                        rules=json.dumps([str(f) for f in rule_files])))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._log = open(self._folder / "log", "wb")
        self._process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={self._folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{self.port}"],
            stdout=self._log, stderr=self._log)
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    log = (self._folder / "log").read_text()
                    self.close()
                    raise RuntimeError("prometheus did not start:\n" + log) from None
                time.sleep(0.1)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _get(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression):
        """The instant vector, as [(labels, value)]; ValueError when the expression is wrong."""
        data = self._get("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    def query_range(self, expression, start, end, step):
        """[(labels, [(time, value)])] for times in seconds since the epoch."""
        data = self._get("query_range", query=expression, start=start, end=end, step=step)
        return [(series["metric"], [(float(t), float(v)) for t, v in series["values"]])
                for series in data["result"]]

    def rules(self):
        """All rules, as the API describes them."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]
