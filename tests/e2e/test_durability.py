"""What sessions are for: a state that is stopped, killed, copied or carried away goes on token for
token as if nothing had happened."""

import json
import subprocess

import pytest

PROMPT = "It was a bright cold day in April, and the clocks were striking"
SAMPLED = ["-t", "1.2", "--seed", "11", "--ignore-eos"]
GREEDY = ["--ignore-eos"]


def whole_run(cli, flags, first, rest):
    """The answer of a run that nothing interrupts, cut where the tests interrupt theirs."""
    ids = cli.ids(PROMPT, *flags, "-n", first + rest)
    return ids[:first], ids[first:]


def begin(cli, session, flags, tokens):
    cli("sessions", "create", session)
    return cli.ids(PROMPT, "--session", session, *flags, "-n", tokens)


def go_on(cli, session, flags, tokens):
    return cli.ids("--continue", "--session", session, *flags, "-n", tokens)


# 1, and on both sides of the grid of 64 tokens.
@pytest.mark.parametrize("first", [1, 45, 70])
def test_two_turns_are_one_run(cli, first):
    head, tail = whole_run(cli, GREEDY, first, 30)
    name = f"turns-{first}"
    assert begin(cli, name, GREEDY, first) == head
    assert go_on(cli, name, GREEDY, 30) == tail


@pytest.mark.parametrize("flags", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_killed_and_started_again(make_server, cli_for, flags):
    server = make_server("a")
    cli = cli_for(server)
    head, tail = whole_run(cli, flags, 50, 40)
    assert begin(cli, "kill", flags + ["--durability", "sync"], 50) == head
    (before,) = cli.json("sessions", "show", "kill")
    server.kill()
    server.start()
    cli = cli_for(server)
    (after,) = cli.json("sessions", "show", "kill")
    assert after == before
    assert go_on(cli, "kill", flags, 40) == tail


def test_killed_in_the_middle_of_a_turn(make_server, cli_for):
    server = make_server("a")
    cli = cli_for(server)
    begin(cli, "mid", GREEDY + ["--durability", "sync"], 20)
    (before,) = cli.json("sessions", "show", "mid")
    process = subprocess.Popen(
        cli.command("generate", "--continue", "--session", "mid", "-n", 50000, "--ignore-eos",
                    "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = json.loads(process.stdout.readline())
    server.kill()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3, err
    server.start()
    cli = cli_for(server)
    # The unfinished turn left no trace, and its beginning comes out again.
    (after,) = cli.json("sessions", "show", "mid")
    assert after["version"] == before["version"]
    assert after["token_count"] == before["token_count"]
    assert go_on(cli, "mid", GREEDY, 5)[:len(first["ids"])] == first["ids"][:5]


def test_sigterm_keeps_what_was_generated(make_server, cli_for):
    server = make_server("a", "--drain-seconds", "0.2")
    cli = cli_for(server)
    cli("sessions", "create", "drain")
    process = subprocess.Popen(
        cli.command("generate", PROMPT, "--session", "drain", "-n", 50000, "--ignore-eos",
                    "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [process.stdout.readline()]
    server.drain()
    out, err = process.communicate(timeout=40)
    assert server.stop() == 0
    events = [json.loads(line) for line in lines + out.splitlines()]
    assert events[-1]["event"] == "finished" and events[-1]["reason"] == "DRAINED", err
    server.start()
    (session,) = cli_for(server).json("sessions", "show", "drain")
    assert session["token_count"] == events[-1]["commit"]["token_count"] > 1


@pytest.mark.parametrize("flags", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_rewind_repeats_the_future(cli, flags):
    name = "rewind-" + str(len(flags))
    begin(cli, name, flags, 37)
    (snapshot,) = cli.json("snapshots", "create", name)
    future = go_on(cli, name, flags, 30)
    (moved,) = cli.json("sessions", "show", name)
    (back,) = cli.json("sessions", "rewind", name, snapshot["name"].rsplit("/", 1)[1])
    assert back["token_count"] == snapshot["token_count"]
    assert back["version"] == moved["version"] + 1
    assert go_on(cli, name, flags, 30) == future


def test_forks_go_their_own_ways(cli):
    begin(cli, "trunk", GREEDY, 37)
    (snapshot,) = cli.json("snapshots", "create", "trunk")
    (fork,) = cli.json("sessions", "fork", snapshot["name"], "branch-0")
    assert fork["parent_snapshot"] == snapshot["name"]
    cli("sessions", "fork", "trunk", "branch-1")
    cli("sessions", "fork", "trunk", "branch-2")
    same = go_on(cli, "branch-0", GREEDY, 30)
    hot = ["-t", "1.5", "--ignore-eos"]
    one = go_on(cli, "branch-1", hot + ["--seed", "1"], 30)
    two = go_on(cli, "branch-2", hot + ["--seed", "2"], 30)
    assert one != two
    # The trunk saw nothing of them, and its deletion takes nothing from them.
    assert go_on(cli, "trunk", GREEDY, 30) == same
    cli("sessions", "rm", "trunk")
    go_on(cli, "branch-1", GREEDY, 3)


def test_a_snapshot_stays_when_the_session_goes_on(cli):
    begin(cli, "stay", GREEDY, 10)
    (snapshot,) = cli.json("snapshots", "create", "stay")
    future = go_on(cli, "stay", GREEDY, 20)
    cli("generate", " and more text", "--session", "stay", "-n", 3, "--ignore-eos")
    cli("sessions", "fork", snapshot["name"], "stay-fork")
    assert go_on(cli, "stay-fork", GREEDY, 20) == future


def test_state_size_does_not_depend_on_length(cli):
    sizes = set()
    for tokens in [1, 100]:
        begin(cli, f"size-{tokens}", GREEDY, tokens)
        sizes.add(cli.json("sessions", "show", f"size-{tokens}")[0]["state_bytes"])
    assert len(sizes) == 1


@pytest.mark.parametrize("flags", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_export_to_another_server(make_server, cli_for, tmp_path, flags):
    here, there = cli_for(make_server("here")), cli_for(make_server("there"))
    begin(here, "travel", flags, 41)
    file = tmp_path / "travel.snapshot"
    told = here.json("snapshots", "export", "travel", file)[0]
    assert told["bytes"] == file.stat().st_size
    (session,) = there.json("snapshots", "import", file, "arrived", "--label", "from=here")
    assert session["name"] == "sessions/arrived" and session["labels"] == {"from": "here"}
    assert go_on(there, "arrived", flags, 30) == go_on(here, "travel", flags, 30)
    assert list(tmp_path.glob("*.partial")) == []


def test_a_damaged_file_is_refused(cli, tmp_path):
    begin(cli, "whole", GREEDY, 5)
    file = tmp_path / "snapshot"
    cli("snapshots", "export", "whole", file)
    data = bytearray(file.read_bytes())
    for position in [0, len(data) // 2, len(data) - 1]:
        damaged = bytearray(data)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        done = cli.run("snapshots", "import", file, "damaged")
        assert done.returncode in (4, 9), done.stderr
        assert done.stderr.count("\n") == 1 and "(" in done.stderr
    file.write_bytes(data[:len(data) // 2])
    assert cli.run("snapshots", "import", file, "damaged").returncode in (4, 9)
    assert cli.run("sessions", "show", "damaged").returncode == 5
    file.write_bytes(data)
    cli("snapshots", "import", file, "damaged")


def test_another_weight_format_is_another_model(make_server, cli_for):
    server = make_server("a")
    cli = cli_for(server)
    head = begin(cli, "format", GREEDY + ["--durability", "sync"], 20)
    server.stop()
    other = make_server("a", "--weight-format", "fp8")
    cli = cli_for(other)
    done = cli.run("generate", "--continue", "--session", "format", "-n", 5, "--json")
    error = json.loads(done.stderr)["error"]
    assert error["reason"] == "FINGERPRINT_MISMATCH"
    assert error["metadata"]["field"] == "weights_fingerprint"
    begin(cli, "format-fp8", GREEDY + ["--durability", "sync"], 20)
    assert len(go_on(cli, "format-fp8", GREEDY, 5)) == 5
    other.stop()
    # And the other way round; what was refused has not changed.
    server.start()
    cli = cli_for(server)
    done = cli.run("generate", "--continue", "--session", "format-fp8", "-n", 5, "--json")
    assert json.loads(done.stderr)["error"]["reason"] == "FINGERPRINT_MISMATCH"
    assert head + go_on(cli, "format", GREEDY, 10) == sum(whole_run(cli, GREEDY, 20, 10), [])
