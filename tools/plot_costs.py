#!/usr/bin/env python3
"""Draws docs/images/costs.svg from the figures of bench/RESULTS.md: what it costs to have a long
conversation's state again, and decoding beside peers. Needs matplotlib.

    tools/plot_costs.py [OUT]
"""

import pathlib
import re
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "RESULTS.md"
PICTURE = ROOT / "docs" / "images" / "costs.svg"
SECTION = "the engine on an H200: all products between two mixers"


def figures(text):
    """The numbers of the section, or SystemExit if its tables have another form."""

    def find(pattern, body):
        match = re.search(pattern, body)
        if not match:
            sys.exit(f"{RESULTS.name}: nothing like {pattern!r} in {SECTION!r}")
        return match

    heading = re.search(rf"^## (.*{re.escape(SECTION)}.*)$", text, re.M)
    if not heading:
        sys.exit(f"{RESULTS.name}: no section {SECTION!r}")
    body = text[heading.end():].split("\n## ", 1)[0]
    prefill = find(r"prefill of ([\dk/ ]+) tokens \| ([\d/ ().]+) ms", body)
    thousands = [int(part.strip().rstrip("k")) for part in prefill[1].split("/")]
    lengths = [1024 * count for count in thousands]
    prefill_ms = [float(part) for part in prefill[2].split("/")]
    resume_ms = float(find(r"resume from Redis .* \| ([\d.]+) ms", body)[1])
    fork_us = float(find(r"fork on the device, to 1 .*\| ([\d.]+) /", body)[1])
    decode = []
    for line in body.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) == 6 and cells[0].isdigit() and cells[5]:
            batch, ours = int(cells[0]), float(cells[2])
            peers = [1000 * batch / float(ms) for ms in cells[4:]]
            decode.append((batch, ours, *peers))
    if not decode or len(lengths) != len(prefill_ms):
        sys.exit(f"{RESULTS.name}: the tables of {SECTION!r} have another form")
    return {"lengths": lengths, "prefill_ms": prefill_ms, "resume_ms": resume_ms,
            "fork_ms": fork_us / 1000, "decode": decode}


def draw(data, out):
    plt.rcParams.update({"svg.hashsalt": "reprise", "svg.fonttype": "none", "font.size": 10})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6))
    lengths = data["lengths"]
    left.plot(lengths, data["prefill_ms"], "o-", color="#b3423a", label="prefill it again")
    left.plot(lengths, [data["resume_ms"]] * len(lengths), "o-", color="#2b6cb0",
              label="resume it from Redis")
    left.plot(lengths, [data["fork_ms"]] * len(lengths), "o-", color="#2f855a",
              label="fork it on the device")
    left.set(xscale="log", yscale="log", xlabel="tokens of the conversation",
             ylabel="milliseconds", title="To have a state of 18 MB")
    left.set_xticks(lengths, [f"{n // 1024}k" for n in lengths])
    left.minorticks_off()
    left.grid(alpha=0.3)
    left.legend(fontsize=9)

    names = ["Reprise", "PyTorch, assembled", "transformers"]
    colours = ["#2b6cb0", "#a0aec0", "#e2b93b"]
    places = range(len(data["decode"]))
    for i, (name, colour) in enumerate(zip(names, colours)):
        right.bar([p + 0.27 * (i - 1) for p in places], [row[1 + i] for row in data["decode"]],
                  width=0.26, label=name, color=colour)
    right.set(yscale="log", ylim=(10, 2e6), ylabel="tokens/s", xlabel="sequences at once", title="Decoding")
    right.set_xticks(list(places), [str(row[0]) for row in data["decode"]])
    right.grid(axis="y", alpha=0.3)
    right.legend(fontsize=9)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    draw(figures(RESULTS.read_text()), out)


if __name__ == "__main__":
    main()
