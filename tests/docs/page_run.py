"""Runs the commands of one page in one shell, in a folder that looks like the root of a checkout."""

import dataclasses
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

from document import output_matches

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = pathlib.Path(os.environ.get("REPRISE_BUILD_DIR") or ROOT / "build" / "release").resolve()
TIMEOUT_SECONDS = 300
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{4,5}\b|(?<=localhost:)\d{4,5}\b|(?<=--port )\d{4,5}\b|(?<=-p )\d{4,5}\b")
_DEFAULT_PORT = "7420"

# For <!-- run: --> comments. `serve` starts a server and returns once it answers.
_PRELUDE = r"""
set -E -o pipefail
page=$PWD
serve() {  # serve [FLAGS...]: the bundled model, where the page's commands look for a server
  reprised --model models/bundled/tale-20m --threads 2 "$@" >>reprised.log 2>&1 &
  until_true reprise health
}
until_true() {  # until_true COMMAND...: tries until it succeeds; the page's time limit ends it
  until "$@" >/dev/null 2>&1; do sleep 0.05; done
}
"""


@dataclasses.dataclass
class Outcome:
    """Of one command: its exit status (None: never reached, or never came back) and its output."""
    command: object
    status: int | None
    output: str

    @property
    def fault(self):
        """What is wrong with it, or None."""
        where = f"line {self.command.line}: {self.command.text.strip()}\n"
        if self.status is None:
            return where + "did not end; output:\n" + self.output
        if self.status != 0:
            return where + f"failed with {self.status}; output:\n" + self.output
        if self.command.expected is not None and not output_matches(self.command.expected, self.output):
            return where + f"--- expected:\n{self.command.expected}\n--- but was:\n{self.output}"
        return None


def run(commands, folder, timeout=TIMEOUT_SECONDS):
    """The Outcomes of `commands`. Every port on loopback that they name stands for a free one, and so does
    /var/lib/reprise for a folder in `folder`. What they leave running ends with them."""
    folder = pathlib.Path(folder)
    _link_checkout(folder)
    ports = _Ports()
    script = [_PRELUDE]
    for i, command in enumerate(commands):
        text = ports.replace(command.text).replace("/var/lib/reprise", str(folder / "var-lib-reprise"))
        name = f"command-{i}.{'py' if command.language == 'python' else 'sh'}"
        (folder / name).write_text(text)
        program = f'python "$page/{name}"' if command.language == "python" else f'eval "$(cat "$page/{name}")"'
        # ERR fires where `set -e` would end the shell, which has to live on here.
        script.append(f"printf '\\n@@begin {i}\\n'\nfault=0; trap 'fault=$?' ERR\n{program}\n"
                      f"trap - ERR; printf '\\n@@end {i} %d\\n' $fault")
    (folder / "page.sh").write_text("\n".join(script) + "\n")
    with open(folder / "output", "wb") as output:
        shell = subprocess.Popen(["bash", "page.sh"], cwd=folder, env=_environment(folder, ports),
                                 stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                 start_new_session=True)
        try:
            shell.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            try:
                os.killpg(shell.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            shell.wait()
    text = (folder / "output").read_text(errors="replace")
    return [_outcome(command, i, ports.restore(text)) for i, command in enumerate(commands)]


def _outcome(command, i, text):
    begun = text.partition(f"\n@@begin {i}\n")[2]
    match = re.search(rf"\n@@end {i} (\d+)\n", begun)
    output = begun[:match.start()] if match else begun
    return Outcome(command, int(match[1]) if match else None, output)


def _link_checkout(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for entry in ROOT.iterdir():
        if not entry.name.startswith((".", "build")):
            (folder / entry.name).symlink_to(entry)
    programs = folder / ".bin"
    programs.mkdir()
    (programs / "reprised").symlink_to(BUILD / "service" / "reprised")
    (programs / "reprise").symlink_to(BUILD / "clients" / "reprise")
    # Not a link: Python finds its environment by the name under which it is called.
    wrappers = {"python": "", "python3": "", "reprise-gateway": "-m reprise_gateway.main"}
    if shutil.which("grpcurl") is None:
        wrappers["grpcurl"] = f'"{HERE / "grpcurl_stand_in.py"}"'
    for name, arguments in wrappers.items():
        wrapper = programs / name
        wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        wrapper.chmod(0o755)


def _environment(folder, ports):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REPRISE_")}
    address = f"127.0.0.1:{ports[_DEFAULT_PORT]}"
    # The programs of the Python environment come last: they are not what a page means by `envoy` or `helm` alone.
    path = [folder / ".bin", environment["PATH"], pathlib.Path(sys.executable).parent]
    return environment | {"PATH": ":".join(map(str, path)), "REPRISE_SERVER": address, "REPRISE_LISTEN": address,
                          "PYTHONPATH": ":".join(str(ROOT / "clients" / name / "src") for name in ("python", "gateway"))}


class _Ports:
    """Free ports in place of those that a page names."""

    def __init__(self):
        self._free = {}

    def __getitem__(self, named):
        if named not in self._free:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._free[named] = str(probe.getsockname()[1])
        return self._free[named]

    def replace(self, text):
        return _PORT.sub(lambda match: self[match[0]], text)

    def restore(self, text):
        for named, free in self._free.items():
            text = re.sub(rf"\b{free}\b", named, text)
        return text
