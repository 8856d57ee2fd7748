"""The newcomer's script, without its installing and building."""

import os
import re
import signal
import subprocess

import reprise_client
from server_process import BUILD, ROOT


def command(model_dir, *flags):
    return [str(ROOT / "tools" / "quickstart.sh"), "--build", str(BUILD), "--model",
            str(model_dir), *flags]


def test_quickstart_shows_an_exact_resume(model_dir, tmp_path):
    for _ in range(2):  # the store of an earlier run is no obstacle
        done = subprocess.run(command(model_dir, "--store", str(tmp_path / "store")), text=True,
                              capture_output=True, timeout=300, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all 96 tokens are equal" in done.stdout
        assert done.stdout.count("--- seed") == 3
        assert re.search(r"bytes of its state +([\d,]+) +\1$", done.stdout, re.M)
        assert re.search(r"generation \(tokens/s\) +\d", done.stdout)


def test_quickstart_serve(model_dir, tmp_path):
    process = subprocess.Popen(
        command(model_dir, "--serve", "--listen", "127.0.0.1:0"), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        # A shell that was started with interrupts ignored, as in the background, cannot trap them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    out = ""
    for line in process.stdout:
        out += line
        if line.startswith("print(Client()"):  # the last one
            with reprise_client.Client(re.search(r"runs at (\S+) until", out).group(1)) as client:
                assert len(client.list_models()) == 1
            os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C
    assert process.wait(timeout=60) == 130, out
    assert "reprise.v1.GenerationService/Generate" in out and "from reprise_client" in out


def test_quickstart_says_what_is_missing(tmp_path):
    done = subprocess.run([str(ROOT / "tools" / "quickstart.sh"), "--build", str(tmp_path)],
                          text=True, capture_output=True, timeout=60)
    assert done.returncode == 1 and "is not there" in done.stderr
    done = subprocess.run([str(ROOT / "tools" / "quickstart.sh"), "--bogus"], text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 2 and "--bogus" in done.stderr
