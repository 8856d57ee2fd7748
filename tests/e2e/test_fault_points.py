"""A server is killed at every named step of a turn's commit, and another server that shares the store goes
on: the turn happened once or not at all, and the text is that of a run that nothing interrupts."""

import json
import subprocess
import time

import pytest

from redis_process import RedisProcess
from server_process import BUILD
from test_durability import GREEDY, begin, whole_run

TOOL = BUILD / "tests" / "state_store" / "redis" / "store_fault_tool"
SYNC = [*GREEDY, "--durability", "sync"]
FIRST, SECOND, REST = 8, 9, 10
WAIT_SECONDS = 120  # for a dead server's lease to run out


def points():
    listed = subprocess.run([str(TOOL), "--list", "redis"], text=True, capture_output=True, check=True)
    # The others are not on a turn's way; the store's own tests kill at them.
    on_the_way = ("redis.commit.", "redis.chunks.", "redis.connection.", "redis.apply.", "redis.let_go.",
                  "redis.lease.")
    return [p for p in listed.stdout.split() if p.startswith(on_the_way)]


@pytest.mark.skipif(not TOOL.exists(), reason="a build without fault points")
def test_a_server_dies_at_each_step_of_a_turn(make_server, cli_for, tmp_path, monkeypatch):
    with RedisProcess(tmp_path / "redis") as redis:
        survivor = make_server("survivor", store=redis.url)
        cli = cli_for(survivor)
        head, tail = whole_run(cli, GREEDY, FIRST, SECOND + REST)
        died = []
        for number, point in enumerate(points()):
            session = f"s-{number}"
            assert begin(cli, session, SYNC, FIRST) == head
            monkeypatch.setenv("REPRISE_FAULT_POINT", point)
            try:
                victim = make_server(f"victim-{number}", store=redis.url)
            except RuntimeError:  # on its way to the first request
                victim = None
            monkeypatch.delenv("REPRISE_FAULT_POINT")
            if victim is not None:
                done = cli_for(victim).run("generate", "--continue", "--session", session, "-n", SECOND,
                                           *SYNC, "--request-id", "second", "--session-version", 2)
                if done.returncode != 0:
                    assert done.returncode == 3, done.stderr  # the connection broke
                    died.append(point)
                victim.kill()
            else:
                died.append(point)
        assert len(died) >= 6, died

        for number, point in enumerate(points()):
            session = f"s-{number}"
            (before,) = cli.json("sessions", "show", session)
            assert int(before["version"]) in (2, 3), point
            # The turn once more, by its request id: it happens, or it has happened.
            give_up = time.monotonic() + WAIT_SECONDS
            while True:
                done = cli.run("generate", "--continue", "--session", session, "-n", SECOND, *SYNC,
                               "--request-id", "second", "--session-version", 2)
                if done.returncode == 0 or time.monotonic() > give_up:
                    break
                # Leased by the dead; or it happened, and this is no way to hear its text again.
                assert done.returncode in (6, 7), (point, done.stderr)
                if int(before["version"]) == 3:
                    break
                time.sleep(0.2)
            (after,) = cli.json("sessions", "show", session)
            assert int(after["version"]) == 3, point
            give_up = time.monotonic() + WAIT_SECONDS
            while True:
                done = cli.run("generate", "--continue", "--session", session, "-n", REST, *SYNC,
                               "--session-version", 3, "--json")
                if done.returncode == 0 or time.monotonic() > give_up:
                    break
                time.sleep(0.2)
            assert done.returncode == 0, (point, done.stderr)
            # What it says next is what an uninterrupted run says after exactly two turns.
            ids = [i for line in done.stdout.splitlines() for i in json.loads(line).get("ids", [])]
            assert ids == tail[SECOND:], point
