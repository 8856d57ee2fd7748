"""The release tarball: complete in itself, and it serves from wherever it was unpacked."""

import subprocess
import tarfile
import time

from server_process import BUILD, ROOT


def test_bundle_serves_from_another_folder(model_dir, tmp_path):
    tarball = tmp_path / "bundle.tar.gz"
    made = subprocess.run([str(ROOT / "tools" / "bundle.sh"), "--without-models", "--build", str(BUILD), str(tarball)],
                          text=True, capture_output=True, timeout=300)
    assert made.returncode == 0, made.stdout + made.stderr
    with tarfile.open(tarball) as archive:
        archive.extractall(tmp_path)
    root = next(tmp_path.glob("reprise-*/"))
    assert (root / "share" / "reprise" / "README.md").exists()
    assert not (root / "share" / "reprise" / "models").exists()

    def run(program, *arguments, **options):
        return subprocess.run([str(root / "bin" / program), *arguments], env={}, text=True,
                              capture_output=True, timeout=60, **options)

    assert run("reprised", "--version").returncode == 0
    port_file = tmp_path / "port"
    server = subprocess.Popen(
        [str(root / "bin" / "reprised"), "--model", f"test={model_dir}", "--listen", "127.0.0.1:0",
         "--store", f"disk:{tmp_path / 'store'}", "--port-file", str(port_file)], env={})
    try:
        give_up = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().strip()):
            assert server.poll() is None and time.monotonic() < give_up
            time.sleep(0.02)
        address = f"127.0.0.1:{int(port_file.read_text())}"
        answer = run("reprise", "--server", address, "generate", "--max-tokens", "5", "Once upon a time")
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.strip()
    finally:
        server.terminate()
        assert server.wait(timeout=60) == 0
