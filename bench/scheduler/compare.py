#!/usr/bin/env python3
"""Compares settings of the scheduler on a real model, on the same traces: prefix cache on and off,
prompts in chunks and whole, slots that change hands and such that do not; then the scheduler's own time
per step. The settings of one comparison run in turns, and each figure is the median over the rounds.
Prints the Markdown tables that bench/RESULTS.md records.

Usage: compare.py SIMULATE SCHEDULER_BENCH MODEL_DIR [--rounds N] [--threads N]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

# Title, traffic, and what differs; the traffic asks for most of what two cores can do.
COMPARISONS = [
    ("Prefix cache: chats that send their history again",
     "--kind chat --scripts 24 --rate 5 --length-scale 0.5 --think-scale 0.01 --resend-history",
     {"off": "", "on": f"--prefix-bytes {1 << 30}"}),
    ("Chunked prefill: documents of 1,500 tokens in the median beside short questions",
     "--kind long-document --scripts 120 --rate 12 --length-scale 0.05 --think-scale 0.01",
     {"chunks of 64 in steps of 128": "--step-tokens 128 --prefill-chunk-tokens 64",
      "chunks of 128 in steps of 256": "--step-tokens 256 --prefill-chunk-tokens 128",
      "whole prompts": "--step-tokens 8192 --prefill-chunk-tokens 8192"}),
    ("Preemption: chats that keep their state",
     "--kind chat --scripts 24 --rate 6 --length-scale 0.5 --think-scale 0.01",
     {"64 slots": "--slots 64",
      "4 slots, wait for ends": "--slots 4 --parked-bytes 0",
      "4 slots, change hands each 50 ms": "--slots 4 --time-slice 0.05 --max-wait 0.05"}),
]


def run(command):
    ran = subprocess.run(command, text=True, capture_output=True)
    if ran.returncode != 0:
        sys.exit(f"{' '.join(command)}: {ran.stderr}")
    return ran.stdout


def figures(report):
    ttft, itl = report["all"]["ttft_ms"], report["all"]["itl_ms"]
    rows = sum(tenant["computed_rows"] for tenant in report["tenants"])
    return {"TTFT p50, ms": ttft["p50"], "TTFT p99": ttft["p99"], "ITL p50, ms": itl["p50"], "ITL p99": itl["p99"],
            "output tokens/s": report["throughput"]["output_tokens_per_s"],
            "busy, %": 100 * report["device"]["busy"], "rows computed": rows,
            "tokens cached": report["prefix_cache"]["cached_tokens"],
            "preemptions": report["device"]["preemptions"]}


def number(values):
    value = statistics.median(values)
    return f"{value:.1f}" if value % 1 and value < 1000 else f"{value:,.0f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("simulate")
    parser.add_argument("scheduler_bench")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    loads = []
    for title, traffic, settings in COMPARISONS:
        found = {name: [] for name in settings}
        for _ in range(options.rounds):
            for name, flags in settings.items():
                loads.append(os.getloadavg()[0])
                found[name].append(figures(json.loads(run(
                    [options.simulate, "replay", "--json", "--model", options.model, "--threads",
                     str(options.threads), "--seed", "1", *traffic.split(), *flags.split()]))))
        header = list(next(iter(found.values()))[0])
        print(f"\n{title} (`{traffic}`):\n\n| | {' | '.join(header)} |\n|{' --- |' * (len(header) + 1)}")
        for name, results in found.items():
            print(f"| {name} | {' | '.join(number([r[key] for r in results]) for key in header)} |", flush=True)
    print("\nThe scheduler's own time per step:\n")
    for _ in range(options.rounds):
        print(run([options.scheduler_bench, "--sequences", "256", "--steps", "3000"]), end="", flush=True)
    print(f"\nload average {min(loads):.0f} to {max(loads):.0f}; {options.rounds} rounds")


if __name__ == "__main__":
    main()
