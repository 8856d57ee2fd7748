#!/usr/bin/env python3
"""Runs the simulations whose results docs/simulation.md shows, and prints its tables as Markdown.

Usage: findings.py SIMULATE [table...]      default: all but fleet, which takes minutes
"""
import json
import subprocess
import sys
import time

BASE = ["--slots", "64", "--step-tokens", "512", "--prefill-chunk-tokens", "256", "--scripts", "100000"]
# Near what the device can do: the last steps before queues grow without end.
KINDS = {
    "chat": ["--kind", "chat", "--rate", "20", "--warmup", "100", "--until", "400"],
    "agent-tree": ["--kind", "agent-tree", "--rate", "9", "--warmup", "50", "--until", "200"],
    "long-document": ["--kind", "long-document", "--rate", "30", "--warmup", "50", "--until", "200"],
}


def run(*arguments):
    """Later options replace earlier ones of the same name."""
    options, flags, repeated = {}, [], []
    arguments = list(arguments)
    while arguments:
        name = arguments.pop(0)
        if not arguments or arguments[0].startswith("--"):
            flags.append(name)
        elif name in ("--weight", "--event"):
            repeated += [name, arguments.pop(0)]
        else:
            options[name] = arguments.pop(0)
    command = [SIMULATE, "run", "--json", *flags, *repeated, *(x for pair in options.items() for x in pair)]
    begin = time.monotonic()
    ran = subprocess.run(command, text=True, capture_output=True)
    if ran.returncode != 0:
        sys.exit(f"{' '.join(command)}: {ran.stderr}")
    result = json.loads(ran.stdout)
    result["seconds"] = time.monotonic() - begin
    return result


def number(value):
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def latencies(result):
    ttft, itl = result["all"]["ttft_ms"], result["all"]["itl_ms"]
    return [number(ttft["p50"]), number(ttft["p95"]), number(ttft["p99"]), number(itl["p50"]), number(itl["p99"]),
            number(itl["max"])]


LATENCIES = ["TTFT p50", "p95", "p99", "ITL p50", "p99", "max"]


def table(title, header, rows):
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def sweep(title, option, values, kinds=KINDS):
    rows = []
    for kind in kinds:
        for value in values:
            result = run(*BASE, *KINDS[kind], option, str(value))
            rows.append([kind, value, *latencies(result), result["device"]["preemptions"],
                         f"{result['throughput']['output_tokens_per_s']:.0f}"])
    table(title, ["traffic", option, *LATENCIES, "preemptions", "output tokens/s"], rows)


def chunks():
    sweep("prefill_chunk_tokens (step_tokens 512)", "--prefill-chunk-tokens", [32, 128, 256, 512])


def steps():
    rows = []
    for kind in KINDS:
        for tokens in [128, 256, 512, 1024, 2048]:
            result = run(*BASE, *KINDS[kind], "--step-tokens", str(tokens), "--prefill-chunk-tokens",
                         str(min(256, tokens)))
            rows.append([kind, tokens, *latencies(result), result["device"]["preemptions"],
                         f"{result['throughput']['output_tokens_per_s']:.0f}"])
    table("step_tokens (prefill_chunk_tokens at most 256)",
          ["traffic", "--step-tokens", *LATENCIES, "preemptions", "output tokens/s"], rows)


def slots():
    sweep("Slots", "--slots", [32, 48, 64, 128, 256])


def preemption():
    rows = []
    for kind in KINDS:
        for name, options in [("on", []), ("off", ["--parked-bytes", "0"])]:
            result = run(*BASE, *KINDS[kind], "--slots", "32", *options)
            rows.append([kind, name, *latencies(result), result["device"]["preemptions"],
                         result["refused"]["rejections"]])
    table("Preemption, with 32 slots", ["traffic", "preemption", *LATENCIES, "preemptions", "refused"], rows)


def weights():
    rows = []
    for kind in KINDS:
        rate = str(1.6 * float(KINDS[kind][KINDS[kind].index("--rate") + 1]))
        for name, options in [("all 1", []), ("t3: 4", ["--weight", "t3=4"]), ("t0: 4", ["--weight", "t0=4"])]:
            result = run(*BASE, *KINDS[kind], "--rate", rate, *options)
            tenants = {t["name"]: t for t in result["tenants"]}
            rows.append([kind, name,
                         *(number(tenants[t]["ttft_ms"]["p50"]) + " / " + number(tenants[t]["ttft_ms"]["p95"])
                           for t in ("t0", "t1", "t2", "t3")),
                         *(f"{tenants[t]['mean_slowdown']:.1f}" for t in ("t0", "t3")),
                         f"{result['fairness']['jain_slowdown']:.3f}", result["refused"]["rejections"]])
    table("Weights, at 1.6 times the load above (t0 asks for 48% of the work, t1 24%, t2 16%, t3 12%)",
          ["traffic", "weights", "t0 TTFT p50 / p95", "t1", "t2", "t3", "t0 slowdown", "t3 slowdown",
           "Jain of slowdown", "refused"], rows)


def sessions():
    rows = []
    for rate in ["5", "10", "15", "20"]:
        for name, options in [("state", []), ("resent", ["--resend-history"]),
                              ("resent, prefix cache", ["--resend-history", "--prefix-bytes", "64e9"])]:
            result = run(*BASE, *KINDS["chat"], "--rate", rate, *options)
            rows.append([rate, name, *latencies(result), f"{result['device']['rows_per_step']:.0f}",
                         f"{result['throughput']['output_tokens_per_s']:.0f}"])
    table("Chat with sessions' states, and with the conversation sent again",
          ["conversations/s", "history", *LATENCIES, "rows per step", "output tokens/s"], rows)


def front():
    rows = []
    common = [*BASE, "--replicas", "16", "--warmup", "20"]
    chat = ["--kind", "chat", "--rate", "320", "--until", "90"]
    trees = ["--kind", "agent-tree", "--rate", "130", "--until", "60"]
    cases = [("chat, 64 virtual nodes", chat), ("chat, 512", [*chat, "--virtual-nodes", "512"]),
             ("chat, bound 1.25", [*chat, "--load-bound", "1.25"]),
             ("chat, bound 1.05", [*chat, "--load-bound", "1.05"]),
             ("chat, bound 1.25, one fails at 50 s", [*chat, "--load-bound", "1.25", "--event", "50:fail:3"]),
             ("chat, bound 1.25, one drains at 50 s (1 s)",
              [*chat, "--load-bound", "1.25", "--event", "50:drain:3:1"]),
             ("trees, forks beside their root", trees),
             ("trees, bound 1.25", [*trees, "--load-bound", "1.25"]),
             ("trees, forks anywhere, bound 1.25", [*trees, "--load-bound", "1.25", "--route-by-session"])]
    for name, options in cases:
        result = run(*common, *options)
        rows.append([name, *latencies(result), f"{100 * result['fleet']['turns_per_replica']['variation']:.1f}%",
                     f"{100 * result['states']['local_hit_rate']:.1f}%", result["fleet"]["resubmitted"]])
    table("The front: 16 replicas", ["case", *LATENCIES, "variation of load", "states found locally",
                                     "resubmitted"], rows)


def sampled():
    rows = []
    cases = {"chat": ["--kind", "chat", "--rate", "640", "--scripts", "60000"],
             "agent-tree": ["--kind", "agent-tree", "--rate", "220", "--scripts", "20000"],
             "long-document": ["--kind", "long-document", "--rate", "800", "--scripts", "80000"]}
    for kind, options in cases.items():
        for count in ["0", "4", "8"]:
            result = run(*BASE, "--replicas", "32", "--virtual-nodes", "256", "--load-bound", "1.25", *options,
                         "--warmup", "10", "--sampled", count)
            error = result["fleet"]["ttft_mean_error_ms"]
            rows.append([kind, "all 32" if count == "0" else count, number(result["all"]["ttft_ms"]["mean"]),
                         "" if count == "0" else f"{error:.2f}", *latencies(result)[:-1],
                         f"{100 * result['states']['local_hit_rate']:.2f}%",
                         f"{result['throughput']['output_tokens_per_s']:.0f}", f"{result['seconds']:.0f} s"])
    table("A sample against all, 32 replicas", ["traffic", "with scheduler", "TTFT mean", "+-", *LATENCIES[:-1],
                                                "states found locally", "output tokens/s", "took"], rows)


def fleet():
    rows = []
    base = ["--kind", "chat", "--length-scale", "1", "--slots", "128", "--step-tokens", "512",
            "--prefill-chunk-tokens", "256", "--tenants", "16", "--virtual-nodes", "128", "--load-bound", "1.25",
            "--warmup", "300", "--sampled", "8"]
    for replicas, scripts in [(1, 10_000), (10, 100_000), (100, 1_000_000), (1000, 10_000_000)]:
        options = ["--replicas", str(replicas), "--scripts", str(scripts), "--rate", str(15 * replicas)]
        if replicas == 1:
            options += ["--sampled", "0"]
        result = run(*base, *options)
        rows.append([replicas, f"{scripts:,}", f"{result['turns']['all']:,}", result["fleet"]["with_scheduler"],
                     *latencies(result), f"{100 * result['states']['local_hit_rate']:.1f}%",
                     f"{result['throughput']['output_tokens_per_s']:,.0f}", f"{result['seconds']:.0f} s"])
    table("To 1,000 replicas and 10 million conversations",
          ["replicas", "conversations", "turns", "with scheduler", *LATENCIES, "states found locally",
           "output tokens/s", "took"], rows)


TABLES = [chunks, steps, slots, preemption, weights, sessions, front, sampled, fleet]

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    SIMULATE = sys.argv[1]
    wanted = sys.argv[2:] or [t.__name__ for t in TABLES if t is not fleet]
    for name in wanted:
        {t.__name__: t for t in TABLES}[name]()
