"""Real binaries on a free port. REPRISE_BUILD_DIR names the build folder (default: build/release),
REPRISE_TEST_MODEL a checkpoint to use instead of the bundled one."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PYTHON_CLIENT = ROOT / "clients" / "python"
sys.path[:0] = [str(HERE), str(PYTHON_CLIENT), str(PYTHON_CLIENT / "src")]

import generate_stubs  # noqa: E402
from local_redis import LocalRedis  # noqa: E402
from server_process import BUILD, ServerProcess  # noqa: E402

generate_stubs.generate()

import reprise_client  # noqa: E402


def _bundled_model():
    """The largest folder of models/bundled; a draft model is never that."""
    folders = [p.parent for p in (ROOT / "models" / "bundled").glob("*/config.json")]
    size = lambda folder: sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
    return max(folders, key=size, default=None)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    named = os.environ.get("REPRISE_TEST_MODEL") or _bundled_model()
    if named:
        return pathlib.Path(named)
    import tiny_model
    return tiny_model.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def shared_server(model_dir, tmp_path_factory):
    """One server for the tests that do not end it. Tests choose their own session names."""
    with ServerProcess(model_dir, tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def make_server(model_dir, tmp_path):
    """Starts servers of this test alone: make_server("name", *flags); one name, one store."""
    servers = []

    def make(name, *flags, store=None):
        servers.append(ServerProcess(model_dir, tmp_path / name, flags, store))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def client(shared_server):
    with reprise_client.Client(shared_server.address) as client:
        yield client


@pytest.fixture
def redis(tmp_path):
    """A real redis-server on loopback whose log outlives its process."""
    with LocalRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def connect():
    """Python clients that are closed with the test: connect(server)."""
    with contextlib.ExitStack() as stack:
        yield lambda server: stack.enter_context(reprise_client.Client(server.address))


class Cli:
    """Runs `reprise` against one server."""

    def __init__(self, address):
        self.address = address

    def command(self, *arguments):
        return [str(BUILD / "clients" / "reprise"), "--server", self.address,
                *map(str, arguments)]

    def run(self, *arguments, stdin="", timeout=60):
        """The finished process, whatever its exit code."""
        return subprocess.run(self.command(*arguments), input=stdin, text=True,
                              capture_output=True, timeout=timeout)

    def __call__(self, *arguments, **options):
        """The standard output of a command that must succeed."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments, **options):
        """The JSON lines of a command that must succeed."""
        return [json.loads(line) for line in self(*arguments, "--json", **options).splitlines()]

    def ids(self, *arguments, **options):
        """The token ids of a `generate` that must succeed."""
        events = self.json("generate", *arguments, **options)
        assert [e["event"] for e in events[:-1]] == ["tokens"] * (len(events) - 1)
        assert events[-1]["event"] == "finished"
        return [i for e in events[:-1] for i in e["ids"]]


@pytest.fixture(scope="session")
def cli(shared_server):
    return Cli(shared_server.address)


@pytest.fixture
def cli_for():
    return lambda server: Cli(server.address)
