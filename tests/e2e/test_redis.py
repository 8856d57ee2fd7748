"""Servers that share one Redis: a session goes on wherever its next turn arrives."""

import shutil
import socket
import subprocess
import time

import pytest

from test_durability import GREEDY, SAMPLED, begin, go_on, whole_run


@pytest.fixture
def redis_url(tmp_path):
    """A real redis-server on loopback that writes every command to its log before it answers."""
    if shutil.which("redis-server") is None:
        pytest.fail("redis-server is not installed; tools/install_dependencies.sh --tests does it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path),
         "--save", "", "--appendonly", "yes", "--appendfsync", "always"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("flags", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_another_server_goes_on(make_server, cli_for, redis_url, flags):
    first = make_server("a", store=redis_url)
    cli = cli_for(first)
    head, tail = whole_run(cli, flags, 50, 40)
    assert begin(cli, "moved", flags + ["--durability", "sync"], 50) == head
    first.kill()
    second = make_server("b", store=redis_url)
    assert go_on(cli_for(second), "moved", flags, 40) == tail


def test_one_of_two_servers_wins_a_turn(make_server, cli_for, redis_url):
    one, two = (cli_for(make_server(name, store=redis_url)) for name in "ab")
    begin(one, "shared", GREEDY + ["--durability", "sync"], 10)
    (session,) = two.json("sessions", "show", "shared")
    version = ["--session-version", session["version"]]
    go_on(two, "shared", GREEDY + version, 5)
    late = one.run("generate", "--continue", "--session", "shared", "-n", 5, *GREEDY, *version)
    assert late.returncode != 0
    assert "VERSION_MISMATCH" in late.stderr
    (after,) = one.json("sessions", "show", "shared")
    assert int(after["version"]) == int(session["version"]) + 1


def test_a_lost_redis_is_a_typed_error(make_server, cli_for):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}"
        cli = cli_for(make_server("a", store=url))
        result = cli.run("sessions", "list")
        assert result.returncode != 0
        assert "UNAVAILABLE" in result.stderr
        # Without a session nothing needs the store.
        assert cli.run("generate", "Once", "-n", 3, *GREEDY).returncode == 0
