"""`reprise admin` on stores of real servers: what it reports, and sessions that move between stores and
go on there token for token."""

import json
import subprocess
import time

import pytest

from redis_process import other_redis, redis  # noqa: F401
from server_process import BUILD
from test_durability import GREEDY, begin, go_on, whole_run

SYNC = [*GREEDY, "--durability", "sync"]


def admin(*arguments, timeout=120):
    return subprocess.run([str(BUILD / "clients" / "reprise"), "admin", *map(str, arguments)],
                          text=True, capture_output=True, timeout=timeout)


def admin_json(*arguments):
    done = admin(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def fill(cli):
    """A session with two kept snapshots, and a fork of it."""
    begin(cli, "one", SYNC, 20)
    cli("snapshots", "create", "one")
    go_on(cli, "one", SYNC, 10)
    cli("snapshots", "create", "one")
    cli("sessions", "fork", "one", "two", "--label", "kind=fork")
    go_on(cli, "two", SYNC, 5)


def test_a_session_goes_on_in_another_store(make_server, cli_for, redis, other_redis, tmp_path):
    server = make_server("a")
    cli = cli_for(server)
    head, tail = whole_run(cli, GREEDY, 20, 45)
    fill(cli)
    shown = {s["name"]: s for s in cli.json("sessions", "list")}
    snapshots = cli.json("snapshots", "list", "one")
    disk = f"disk:{tmp_path / 'a' / 'store'}"
    # A store belongs to its server while that runs.
    locked = admin("usage", disk)
    assert locked.returncode == 4 and "STORE_LOCKED" in locked.stderr
    server.stop()

    (usage,) = admin_json("usage", disk)
    assert usage["tenant"] == "default"
    assert (usage["sessions"], usage["snapshots"]) == (2, 3)
    assert 0 < usage["stored_bytes"] <= usage["logical_bytes"]
    (verified,) = admin_json("verify", disk)
    assert (verified["sessions"], verified["snapshots"], verified["problems"]) == (2, 3, 0)
    assert admin("gc", disk).returncode == 0

    for result in ("copied", "there already"):
        lines = admin_json("migrate", disk, redis.url)
        assert [(line["session"], line["result"]) for line in lines] == [
            ("one", result), ("two", result)]
    assert admin_json("usage", redis.url)[0]["snapshots"] == 3

    # From Redis to Redis: moved, it is gone here, and a repeat has nothing to do.
    moved = ["migrate", redis.url, other_redis.url, "--tenant", "default", "--session", "one",
             "--move"]
    assert admin_json(*moved)[0]["result"] == "moved"
    assert admin_json(*moved)[0]["result"] == "moved already"
    assert [line["session"] for line in admin_json("migrate", redis.url, other_redis.url)] == ["two"]
    assert admin("verify", redis.url, "--tenant", "default", "--session", "one").returncode == 5

    # And back to a directory.
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "store").mkdir()
    assert len(admin_json("migrate", other_redis.url, f"disk:{tmp_path / 'b' / 'store'}")) == 2
    for store in (other_redis.url, None):
        cli = cli_for(make_server("b", store=store))
        assert {s["name"]: s for s in cli.json("sessions", "list")} == shown
        assert cli.json("snapshots", "list", "one") == snapshots
        assert go_on(cli, "one", SYNC, 35) == tail[10:]
        assert go_on(cli, "two", SYNC, 30) == tail[15:]


def test_a_migration_that_is_killed_is_repeated(make_server, cli_for, redis, other_redis):
    server = make_server("a", store=redis.url)
    cli = cli_for(server)
    begin(cli, "root", SYNC, 5)
    for i in range(30):
        cli("sessions", "fork", "root", f"s-{i:02}")
        cli.ids(f"line {i}", "--session", f"s-{i:02}", *SYNC, "-n", 2)
    shown = cli.json("sessions", "list")
    server.stop()
    command = [str(BUILD / "clients" / "reprise"), "admin", "migrate", redis.url, other_redis.url,
               "--move", "--json"]
    kills = 0
    for delay in (0.02, 0.05, 0.1):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        kills += process.wait() == -9
    # A run that was killed leaves a lease that soon runs out; the next one waits for that.
    seconds, micros = map(int, redis.do("TIME"))
    for key in redis.do("KEYS", "reprise:1:s:*"):
        until = int(redis.do("HGET", key, "lease_until") or 0)
        assert until <= seconds * 10**6 + micros + 10 * 10**6
    done = subprocess.run(command, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert kills > 0
    assert admin_json("usage", redis.url)[0]["sessions"] == 0
    (verified,) = admin_json("verify", other_redis.url)
    assert (verified["sessions"], verified["problems"]) == (31, 0)
    assert cli_for(make_server("b", store=other_redis.url)).json("sessions", "list") == shown


def test_verify_names_what_is_damaged_and_gc_removes_what_crashes_left(make_server, cli_for, redis):
    cli = cli_for(make_server("a", store=redis.url))
    fill(cli)
    assert admin_json("verify", redis.url)[0]["problems"] == 0
    # As a writer leaves them that died long ago.
    redis.do("HSET", "reprise:1:c:{default:" + "f" * 64 + "}", "d", "abc", "p:dead", "1000 one")
    redis.do("HSET", "reprise:1:h:{default:dead}", "someone", "1000 one")
    (report,) = admin_json("gc", redis.url)
    assert report["dropped_pins"] == 1 and report["dropped_holds"] == 1
    assert redis.do("EXISTS", "reprise:1:c:{default:" + "f" * 64 + "}") == 0
    assert admin_json("verify", redis.url)[0]["problems"] == 0

    for key in redis.do("KEYS", "reprise:1:c:*"):
        value = redis.do("HGET", key, "d")
        redis.do("HSET", key, "d", bytes([value[0] ^ 1]) + value[1:])
    done = admin("verify", redis.url, "--json")
    assert done.returncode == 9 and "DATA_LOSS" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["session"] for line in lines[:-1]} == {"one", "two"}
    assert lines[-1]["problems"] == 2
    refused = admin("migrate", redis.url, redis.url)
    assert refused.returncode == 2


def test_wrong_use_and_unreachable_stores(tmp_path):
    assert admin("usage", "memory").returncode == 2
    assert admin("usage", f"disk:{tmp_path / 'nothing'}").returncode == 2
    assert not (tmp_path / "nothing").exists()
    assert admin("verify", "redis://127.0.0.1:1", "--session", "x").returncode == 2
    unreachable = admin("usage", "redis://127.0.0.1:1", "--timeout", 1)
    assert unreachable.returncode == 7 and "UNAVAILABLE" in unreachable.stderr
