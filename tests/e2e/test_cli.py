"""Exchanges of the command line client with a real server."""

import json
import math
import os
import pty
import re
import signal
import subprocess
import time

import pytest

PROMPT = "The old man walked down to the sea and"


def test_models_and_their_state(cli):
    (model,) = cli.json("models", "list")
    assert model["name"] == "test"
    assert model["state_bytes"] > 0 and model["num_parameters"] > 0
    (shown,) = cli.json("models", "show", "test")
    assert shown["weights_fingerprint"] == model["weights_fingerprint"]
    assert shown["state_tensors"]
    text = cli("models", "show")
    assert f"({model['state_bytes']} bytes)" in text
    assert "test" in cli("models", "list")


def test_health(cli):
    assert cli("health") == "SERVING\n"
    assert cli.json("health")[0]["status"] == "SERVING"


@pytest.mark.parametrize("text",
                         ["Hello world", "two\nlines  and spaces ", "grün €", "\U0001f600"])
def test_tokenize_and_back(cli, text):
    (tokens,) = cli.json("tokenize", text)
    assert cli("detokenize", ",".join(map(str, tokens["ids"]))) == text
    ids_line = cli("tokenize", text, "--ids")
    assert ids_line.split() == [str(i) for i in tokens["ids"]]
    assert cli("detokenize", stdin=ids_line) == text


def test_tokenize_with_bos(cli):
    (model,) = cli.json("models", "show")
    (tokens,) = cli.json("tokenize", "Hello", "--bos")
    assert tokens["ids"][0] == model["bos_token"]


def test_generate_streams_the_text_of_its_tokens(cli):
    events = cli.json("generate", PROMPT, "-n", 24, "--ignore-eos")
    finished = events[-1]
    ids = [i for e in events[:-1] for i in e["ids"]]
    text = "".join(e["text"] for e in events[:-1]) + finished["text"]
    assert len(ids) == 24 == finished["usage"]["completion_tokens"]
    assert finished["reason"] == "MAX_TOKENS"
    assert cli("generate", PROMPT, "-n", 24, "--ignore-eos") == text


def test_json_schema_of_the_events(cli):
    *tokens, finished = cli.json("generate", PROMPT, "-n", 4, "--ignore-eos", "--top-logprobs", 2)
    for event in tokens:
        assert list(event) == ["event", "ids", "text", "logprobs", "replayed", "choice"]
        for entry, token in zip(event["logprobs"], event["ids"], strict=True):
            assert entry["id"] == token and entry["logprob"] <= 0
            assert ("token" in entry) != ("token_base64" in entry)
            assert len(entry["top"]) == 2
            assert entry["top"][0]["logprob"] >= entry["top"][1]["logprob"]
    assert list(finished) == ["event", "reason", "stop_string", "stop_token", "text", "usage",
                              "timeline", "seed", "prompt_logprobs", "choice", "mean_logprob"]
    assert finished["usage"]["prompt_tokens"] > 0
    assert finished["timeline"]["time_to_first_token_seconds"] > 0


def test_prompts_from_everywhere_are_the_same(cli, tmp_path):
    file = tmp_path / "prompt"
    file.write_text(PROMPT)
    (tokens,) = cli.json("tokenize", PROMPT, "--bos")
    flags = ["-n", 8, "--ignore-eos"]
    expected = cli.ids(PROMPT, *flags)
    assert cli.ids("--file", file, *flags) == expected
    assert cli.ids(*flags, stdin=PROMPT) == expected
    assert cli.ids("-", *flags, stdin=PROMPT) == expected
    assert cli.ids("--tokens", ",".join(map(str, tokens["ids"])), *flags) == expected


def test_a_seed_repeats_its_answer(cli):
    flags = ["-n", 24, "--ignore-eos", "-t", 1.5]
    first = cli.ids(PROMPT, *flags, "--seed", 7)
    assert cli.ids(PROMPT, *flags, "--seed", 7) == first
    assert cli.ids(PROMPT, *flags, "--seed", 8) != first
    # A seed that the server drew can be given back.
    events = cli.json("generate", PROMPT, *flags)
    ids = [i for e in events[:-1] for i in e["ids"]]
    assert cli.ids(PROMPT, *flags, "--seed", events[-1]["seed"]) == ids


def test_stop_string(cli):
    text = cli("generate", PROMPT, "-n", 40, "--ignore-eos", "-t", 1, "--seed", 3)
    stop = text[len(text) // 2:][:3]
    events = cli.json("generate", PROMPT, "-n", 40, "--ignore-eos", "-t", 1, "--seed", 3, "--stop",
                      stop)
    assert events[-1]["reason"] == "STOP_STRING" and events[-1]["stop_string"] == stop
    assert "".join(e["text"] for e in events) == text[:text.index(stop)]


def test_logprobs_as_text(cli):
    lines = cli("generate", PROMPT, "-n", 5, "--ignore-eos", "--logprobs").splitlines()
    assert len(lines) == 5
    for line in lines:
        assert re.match(r" *\d+ +-?\d+\.\d{4}  \".*\"$", line)


def test_score(cli):
    *_, score, finished = cli.json("generate", PROMPT, "--score")
    assert score["event"] == "score" and finished["usage"]["completion_tokens"] == 0
    assert score["tokens"] == len(score["prompt_logprobs"])
    assert score["bytes"] == len(PROMPT)
    bits = -sum(t["logprob"] for t in score["prompt_logprobs"]) / math.log(2)
    assert score["bits_per_byte"] == pytest.approx(bits / len(PROMPT), rel=1e-5)
    text = cli("generate", PROMPT, "--score")
    assert f"bits per byte:   {score['bits_per_byte']:.4f}\n" in text


def test_usage_goes_to_stderr(cli):
    done = cli.run("generate", PROMPT, "-n", 6, "--ignore-eos", "--usage")
    assert re.search(r"\d+ prompt \+ 6 generated tokens", done.stderr)
    assert "generated tokens" not in done.stdout


def test_timing(cli):
    finished = cli.json("generate", PROMPT, "-n", 6, "--ignore-eos", "--timing")[-1]
    assert 0 < finished["first_token_seconds"] <= finished["call_seconds"]
    done = cli.run("models", "list", "--timing")
    assert re.fullmatch(r"call took \S+ m?s\n", done.stderr)


def test_sessions_from_creation_to_deletion(cli):
    cli("sessions", "create", "life", "--label", "team=blue", "--label", "x=1", "--ttl", "2h")
    (session,) = cli.json("sessions", "show", "sessions/life")
    assert session["name"] == "sessions/life" and session["labels"] == {"team": "blue", "x": "1"}
    assert session["token_count"] == 0 and "expire_time" in session
    cli("generate", PROMPT, "--session", "life", "-n", 4, "--ignore-eos")
    (labelled,) = cli.json("sessions", "label", "life", "x-", "y=2", "--ttl", "never")
    assert labelled["labels"] == {"team": "blue", "y": "2"} and "expire_time" not in labelled
    assert labelled["token_count"] > 4
    assert any(s["name"] == "sessions/life" for s in cli.json("sessions", "list"))
    assert re.search(r"^life +test +\d+ ", cli("sessions", "list"), re.M)
    assert cli("sessions", "rm", "life") == "deleted life\n"
    assert cli.run("sessions", "show", "life").returncode == 5


def test_list_reads_all_pages(cli):
    names = [f"page-{i}" for i in range(5)]
    for name in names:
        cli("sessions", "create", name)
    listed = [s["name"] for s in cli.json("sessions", "list")]
    assert {f"sessions/{n}" for n in names} <= set(listed)
    assert len(listed) == len(set(listed))
    assert len(cli.json("sessions", "list", "--limit", 2)) == 2
    cli("sessions", "rm", *names)


def test_snapshots_of_a_session(cli):
    cli("sessions", "create", "shots")
    cli("generate", PROMPT, "--session", "shots", "-n", 4, "--ignore-eos")
    (snapshot,) = cli.json("snapshots", "create", "shots")
    assert snapshot["retained"] and snapshot["state_bytes"] > 0
    cli("generate", "--continue", "--session", "shots", "-n", 4, "--ignore-eos")
    short = snapshot["name"].replace("sessions/", "").replace("/snapshots/", "/")
    assert short in cli("snapshots", "list", "shots")
    assert cli.json("snapshots", "show", short)[0]["token_count"] == snapshot["token_count"]
    (session,) = cli.json("sessions", "show", "shots")
    head = cli.run("snapshots", "rm", session["head_snapshot"])
    assert head.returncode == 4 and "SNAPSHOT_IN_USE" in head.stderr
    cli("snapshots", "rm", short)
    assert cli.run("snapshots", "show", short).returncode == 5


def test_chat_from_a_script(cli):
    script = "Once upon a time\n/snapshot\nAnd then\n/rewind\n/show\n/fork chat-fork\n\n/quit\nno\n"
    done = cli.run("chat", "--session", "chat", "-n", 6, "--ignore-eos", stdin=script)
    assert done.returncode == 0, done.stderr
    kept = int(re.search(r"snapshot chat/\S+ at (\d+) tokens", done.stderr).group(1))
    assert f"[back at {kept} tokens]" in done.stderr
    assert f"[session chat, {kept} tokens, version " in done.stderr
    assert cli.json("sessions", "show", "chat")[0]["token_count"] == kept
    assert cli.json("sessions", "show", "chat-fork")[0]["token_count"] == kept + 6
    assert len(done.stdout.rstrip("\n").splitlines()) >= 3


def test_chat_on_a_terminal(cli):
    primary, secondary = pty.openpty()
    process = subprocess.Popen(cli.command("chat", "--session", "tty", "-n", 4, "--ignore-eos"),
                               stdin=secondary, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    os.close(secondary)
    os.write(primary, b"Hello\n/nonsense\n/quit\n")
    out, err = process.communicate(timeout=30)
    os.close(primary)
    # A mistake does not end it, and the prompt is not part of the output.
    assert process.returncode == 0
    assert "no command /nonsense" in err and "> " in err and "> " not in out


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["generate", "x", "-t", "200"], 4, ["INVALID_ARGUMENT", "INVALID_FIELD", "temperature"]),
        (["generate", "x", "--top-p", "0"], 4, ["INVALID_FIELD", "top_p"]),
        (["generate", "x", "-m", "nope"], 5, ["MODEL_NOT_FOUND", "nope", "models list"]),
        (["generate", "x", "--session", "nope"], 5, ["SESSION_NOT_FOUND", "nope", "hint"]),
        (["sessions", "fork", "nope/abc"], 5, ["NOT_FOUND", "nope"]),
        (["sessions", "create", "Not_A_Name"], 4, ["INVALID_FIELD", "session_id"]),
        (["generate", "x", "--file", "y"], 2, ["--file"]),
        (["generate", "--file", "/nonexistent"], 1, ["/nonexistent"]),
        (["generate", "x", "--bogus"], 2, ["--bogus"]),
        (["detokenize", "--", "-5"], 4, ["INVALID_FIELD", "ids"]),
    ])
def test_one_clear_line_for_an_error(cli, arguments, code, words):
    done = cli.run(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("reprise: ")
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
    as_json = json.loads(cli.run("--json", *arguments).stderr) if code != 2 else None
    assert as_json is None or as_json["error"]["exit_code"] == code


def test_version_conflict(cli):
    cli("sessions", "create", "version")
    cli("generate", PROMPT, "--session", "version", "-n", 2, "--ignore-eos")
    (session,) = cli.json("sessions", "show", "version")
    done = cli.run("generate", "--continue", "--session", "version", "--session-version",
                   session["version"] - 1, "--json")
    error = json.loads(done.stderr)["error"]
    assert done.returncode == 6 and error["reason"] == "VERSION_MISMATCH"
    assert error["metadata"]["found"] == str(session["version"])
    assert cli.json("sessions", "show", "version")[0]["version"] == session["version"]


def test_a_session_that_exists(cli):
    cli("sessions", "create", "twice")
    done = cli.run("sessions", "create", "twice")
    assert done.returncode == 4 and "SESSION_EXISTS" in done.stderr


def test_request_id_commits_once(cli):
    cli("sessions", "create", "once")
    flags = ["--session", "once", "--request-id", "turn-1", "-n", 3, "--ignore-eos"]
    first = cli.json("generate", PROMPT, *flags)[-1]["commit"]
    again = cli.json("generate", PROMPT, *flags)[-1]["commit"]
    assert again["version"] == first["version"]
    assert again["token_count"] == first["token_count"]


def test_nobody_listening(cli):
    done = subprocess.run(cli.command("models", "list", "--server", "127.0.0.1:9"),
                          capture_output=True, text=True, timeout=20)
    # The last --server wins or is refused; either way it must be one clear line.
    assert done.returncode in (2, 3) and done.stderr.count("\n") == 1
    environment = dict(os.environ, REPRISE_SERVER="127.0.0.1:9")
    done = subprocess.run([cli.command()[0], "models", "list"], env=environment,
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 3 and "127.0.0.1:9" in done.stderr


def test_timeout(cli):
    start = time.monotonic()
    done = cli.run("generate", PROMPT, "-n", 50000, "--ignore-eos", "--timeout", 0.5)
    assert done.returncode == 8 and "DEADLINE_EXCEEDED" in done.stderr
    assert time.monotonic() - start < 10


def test_ctrl_c_ends_the_answer_and_keeps_its_tokens(cli):
    cli("sessions", "create", "cancel")
    process = subprocess.Popen(
        cli.command("generate", PROMPT, "--session", "cancel", "-n", 50000, "--ignore-eos",
                    "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = [json.loads(process.stdout.readline()) for _ in range(5)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    message = json.loads(err)["error"]["message"]
    told = int(re.search(r"session cancel has (\d+) tokens now", message).group(1))
    (session,) = cli.json("sessions", "show", "cancel")
    streamed = sum(len(e["ids"]) for e in seen + [json.loads(line) for line in out.splitlines()])
    assert told == session["token_count"] >= streamed
    # Its turn is over: the next one runs.
    cli("generate", "--continue", "--session", "cancel", "-n", 2, "--ignore-eos")


def test_output_arrives_as_it_is_generated(cli):
    process = subprocess.Popen(cli.command("generate", PROMPT, "-n", 50000, "--ignore-eos"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert os.read(process.stdout.fileno(), 1)  # long before 50000 tokens are there
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_reader_that_leaves_ends_the_call(cli):
    process = subprocess.Popen(cli.command("generate", PROMPT, "-n", 50000, "--ignore-eos"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()  # as `| head -c1` does
    process.wait(timeout=30)
    process.stderr.close()
    assert process.returncode != 0


def test_several_answers(cli):
    ask = ["generate", PROMPT, "-n", 12, "-t", 0.9, "-s", 5, "--ignore-eos"]
    events = cli.json(*ask, "--n", 3)
    finished = [e for e in events if e["event"] == "finished"]
    assert [f["choice"] for f in finished] == [0, 1, 2] and events[-3:] == finished
    texts = []
    for end in finished:
        alone = cli("generate", PROMPT, "-n", 12, "-t", 0.9, "-s", end["seed"], "--ignore-eos")
        mine = [e for e in events if e["event"] == "tokens" and e["choice"] == end["choice"]]
        texts.append("".join(e["text"] for e in mine) + end["text"])
        assert texts[-1] == alone
    assert len(set(texts)) == 3
    said = cli(*ask, "--n", 3)
    for i, text in enumerate(texts):
        assert f"--- choice {i}\n{text}" in said
    # The most probable of them.
    (best,) = [e for e in cli.json(*ask, "--best-of", 3) if e["event"] == "finished"]
    means = [f["mean_logprob"] for f in cli.json(*ask, "--n", 3, "--logprobs")
             if f["event"] == "finished"]
    assert best["mean_logprob"] == max(means)
    assert best["seed"] == finished[means.index(max(means))]["seed"]


def test_priority_is_checked_by_name(cli):
    assert cli("generate", PROMPT, "-n", 2, "--priority", "low")
    assert cli.run("generate", PROMPT, "--priority", "urgent").returncode == 2


def test_ctrl_c_within_a_long_prompt_keeps_what_was_computed(cli):
    cli("sessions", "create", "partial")
    ids = ",".join(str(7 + i % 300) for i in range(30000))
    ask = ["generate", "--tokens", ids, "--session", "partial", "-n", 4, "--ignore-eos",
           "--keep-partial", "--request-id", "r1", "--durability", "every-n-tokens",
           "--checkpoint-tokens", 512]
    process = subprocess.Popen(cli.command(*ask), text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    give_up = time.monotonic() + 60
    while True:  # until its first checkpoint is there
        (session,) = cli.json("sessions", "show", "partial")
        if session["token_count"] > 0:
            break
        assert time.monotonic() < give_up
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stands in the middle of it" in said and "--request-id r1" in said
    events = cli.json(*ask)
    assert events[-1]["commit"]["token_count"] == 30004
    assert events[-1]["usage"]["restored_tokens"] > 0
