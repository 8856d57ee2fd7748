#!/usr/bin/env python3
"""Runs the end-to-end benchmark of one checkpoint and, beside it in the same run, transformers; prints a
Markdown table with the ratios that bench/RESULTS.md records.

Usage: run.py ENGINE_BENCH MODEL_DIR [--threads N] [--dtype float32]
"""
import argparse
import json
import pathlib
import subprocess
import sys


def run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("engine_bench")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", help="of transformers' weights and activations")
    options = parser.parse_args()

    here = pathlib.Path(__file__).parent
    engine_command = [options.engine_bench, "--model", options.model, "--threads", str(options.threads)]
    peer_command = [sys.executable, str(here / "transformers_bench.py"), options.model,
                    "--threads", str(options.threads), "--dtype", options.dtype]
    # Ours, theirs, ours again: a machine that changes its speed meanwhile shows in the difference.
    first, peer, second = run(engine_command), run(peer_command), run(engine_command)

    bandwidth = max(run_[key] for run_ in (first, second)
                    for key in ("bandwidth_bytes_per_second", "bandwidth_bytes_per_second_after"))
    floor = bandwidth / first["step_weight_bytes"]
    print(f"{first['parameters'] / 1e6:.1f} M parameters, {first['dtype']} weights, {options.threads} threads; "
          f"memory read {bandwidth / 1e9:.1f} GB/s, so at most {floor:.0f} tokens/s at batch 1\n")
    print(f"| figure | Reprise (two runs) | transformers {options.dtype} | ratio |\n| --- | --- | --- | --- |")

    def row(name, key):
        a, b, theirs = key(first), key(second), key(peer)
        print(f"| {name} | {a:.0f}, {b:.0f} | {theirs:.1f} | {max(a, b) / theirs:.1f}x |")

    row("prefill, tokens/s", lambda r: r["prefill_tokens_per_second"])
    for batch in ("1", "8", "32"):
        row(f"decode, batch {batch}, tokens/s", lambda r: r["decode_tokens_per_second"][batch])
    best = max(r["decode_tokens_per_second"]["1"] for r in (first, second))
    print(f"| decode, batch 1, share of the bandwidth floor | {best / floor:.0%} | | |")
    for name, key in (("snapshot, ASYNC", "snapshot_async_ms"), ("snapshot, SYNC", "snapshot_sync_ms"),
                      ("fork of a session", "fork_ms"), ("fork between slots", "fork_in_slots_ms"),
                      ("resume (read, verify, import)", "resume_ms")):
        print(f"| {name}, ms | {first[key]:.3f}, {second[key]:.3f} | | |")
    print(f"| state, bytes | {first['state_bytes']} | | |")


if __name__ == "__main__":
    main()
