"""Every subcommand of tools/simulate, as a program."""

import json
import subprocess

import pytest
from server_process import BUILD, ROOT

SIMULATE = BUILD / "tools" / "simulate" / "simulate"


def simulate(*arguments, check=True):
    ran = subprocess.run([str(SIMULATE), *map(str, arguments)], text=True, capture_output=True, timeout=300)
    assert not check or ran.returncode == 0, ran.stderr
    return ran


def report(*arguments):
    return json.loads(simulate(*arguments, "--json").stdout)


def test_a_generated_trace_runs_as_its_generator_does(tmp_path):
    trace = tmp_path / "trace.jsonl"
    traffic = ("--kind", "mixed", "--scripts", 120, "--rate", 6, "--seed", 5)
    simulate("generate", *traffic, "--out", trace)
    assert simulate("generate", *traffic).stdout == trace.read_text()
    from_file = report("run", "--trace", trace, "--seed", 5)
    generated = report("run", *traffic)
    assert from_file.pop("title") != generated.pop("title")
    assert from_file == generated
    assert generated["turns"]["completed"] == generated["turns"]["all"] == len(trace.read_text().splitlines())


def test_options_reach_the_scheduler_and_the_device(tmp_path):
    traffic = ("run", "--kind", "chat", "--scripts", 150, "--rate", 30)
    base = report(*traffic)
    few_slots = report(*traffic, "--slots", 2)
    assert few_slots["all"]["ttft_ms"]["p90"] > 3 * base["all"]["ttft_ms"]["p90"]
    assert few_slots["device"]["preemptions"] > 0
    assert report(*traffic, "--slots", 2, "--parked-bytes", 0)["device"]["preemptions"] == 0
    weighted = report(*traffic, "--slots", 2, "--weight", "t3=5", "--time-slice", 0.2)
    assert [tenant["weight"] for tenant in weighted["tenants"]] == [1, 1, 1, 5]

    device = tmp_path / "device.json"
    described = json.loads(simulate("device", "h100-2b").stdout)
    described["bytes_per_second"] /= 10
    device.write_text(json.dumps(described))
    slow = report(*traffic, "--device", device)
    assert slow["all"]["itl_ms"]["p50"] > 5 * base["all"]["itl_ms"]["p50"]


def test_a_fleet_with_events():
    fleet = report("run", "--kind", "chat", "--scripts", 400, "--rate", 40, "--replicas", 6, "--sampled", 2,
                   "--load-bound", 1.25, "--event", "4:fail:1", "--event", "6:drain:2:0.5", "--event", "9:join:1")
    assert fleet["fleet"]["replicas"] == 6 and fleet["fleet"]["with_scheduler"] == 2
    assert fleet["turns"]["completed"] == fleet["turns"]["all"]
    assert fleet["fleet"]["resubmitted"] > 0 and fleet["states"]["sessions_moved"] > 0


def test_the_azure_format_and_the_table(tmp_path):
    trace = tmp_path / "azure.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n"
                     "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n")
    table = simulate("run", "--trace", trace, "--format", "azure").stdout
    assert "turns           2: 2 completed" in table
    assert "time to first token" in table


def test_replay_runs_the_same_turns_on_a_real_model(tmp_path, model_dir):
    traffic = ("--kind", "chat", "--scripts", 6, "--rate", 20, "--length-scale", 0.1, "--think-scale", 0.002)
    options = ("--slots", 8, "--step-tokens", 128, "--prefill-chunk-tokens", 64)
    measured = report("replay", "--model", model_dir, *traffic, *options)
    predicted = report("run", *traffic, *options, "--device", "cpu-tale-20m")
    assert measured["turns"] == predicted["turns"]
    for key in ("completed", "prompt_tokens", "output_tokens"):
        assert measured["all"][key] == predicted["all"][key]
    for key in ("ttft_ms", "itl_ms"):
        assert measured["all"][key]["count"] == predicted["all"][key]["count"]
    assert measured["device"]["exports"] == predicted["device"]["exports"]
    assert measured["all"]["itl_ms"]["p50"] > 0


def test_replay_without_states_sends_the_history_again(tmp_path, model_dir):
    chats = ("replay", "--model", model_dir, "--kind", "chat", "--length-scale", 0.1, "--think-scale", 0.002,
             "--step-tokens", 128, "--prefill-chunk-tokens", 64)
    traffic = (*chats, "--scripts", 6, "--rate", 20)
    states = report(*traffic)
    resent = report(*traffic, "--resend-history")
    cached = report(*traffic, "--resend-history", "--prefix-bytes", 1 << 28)
    assert states["device"]["exports"] > 0 and resent["device"]["exports"] == 0
    rows = [sum(tenant["computed_rows"] for tenant in r["tenants"]) for r in (states, resent, cached)]
    assert rows[1] > 1.3 * rows[0]
    assert resent["prefix_cache"]["hits"] == 0 and cached["prefix_cache"]["hits"] > 0
    assert rows[2] + cached["prefix_cache"]["cached_tokens"] == rows[1]
    # Without room for states that gave up their slot none does. All come at once, so that on no machine
    # one is through before the next is there.
    crowd = (*chats, "--scripts", 12, "--rate", 10000, "--slots", 2, "--max-wait", 0, "--time-slice", 0)
    assert report(*crowd)["device"]["preemptions"] > 0
    assert report(*crowd, "--parked-bytes", 0)["device"]["preemptions"] == 0


def test_calibrate_writes_a_device_that_runs(tmp_path, model_dir):
    device = tmp_path / "here.json"
    fitted = simulate("calibrate", "--model", model_dir, "--repeats", 1, "--name", "here", "--threads", 1)
    assert "mean error" in fitted.stderr
    device.write_text(fitted.stdout)
    assert json.loads(fitted.stdout)["name"] == "here"
    ran = report("run", "--kind", "chat", "--scripts", 5, "--device", device)
    assert ran["turns"]["completed"] == ran["turns"]["all"] > 0


@pytest.mark.parametrize("arguments, message", [
    (("run", "--trace", "/nowhere"), "/nowhere: cannot be opened"),
    (("run", "--kind", "poetry"), "kind: expected chat"),
    (("run", "--device", "abacus"), 'device "abacus": there are'),
    (("run", "--slots", "0"), "num_slots"),
    (("run", "--weight", "t0"), "expected name=number"),
    (("run", "--event", "1:explode:0"), "expected seconds:fail:replica"),
    (("run", "--sampled", "5"), "sampled"),
    (("generate", "--rate", "0"), "rate: expected more than 0"),
    (("generate", "--out", "/nowhere/trace"), "cannot be written"),
    (("replay", "--model", "/nowhere"), "/nowhere"),
    (("device", "abacus"), 'device "abacus"'),
])
def test_mistakes_are_said_in_one_line(arguments, message):
    ran = simulate(*arguments, check=False)
    assert ran.returncode == 1
    assert message in ran.stderr and len(ran.stderr.splitlines()) == 1
    assert not ran.stdout


def test_a_broken_trace_names_line_and_column(tmp_path):
    trace = tmp_path / "broken.jsonl"
    trace.write_text('{"arrival": 0, "prompt": 5, "output": 5}\n{"arrival": 0, "prompt": -5, "output": 5}\n')
    ran = simulate("run", "--trace", trace, check=False)
    assert ran.returncode == 1
    assert f"{trace}:2:26: prompt: expected 0 to" in ran.stderr
