#!/usr/bin/env python3
"""Draws panels of the dashboards in deploy/grafana: their real queries, answered by a real Prometheus
that scrapes a real server under load.

    REPRISE_BUILD_DIR=build/release tools/draw_dashboards.py [--seconds 180] [--out FILE]

Needs prometheus and redis-server, and matplotlib (tools/install_dependencies.sh --tests).
"""

import argparse
import json
import math
import pathlib
import re
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e")]

import conftest  # noqa: E402  (finds the model and makes the Python client importable)
import local_prometheus  # noqa: E402
import matplotlib  # noqa: E402
from local_redis import LocalRedis  # noqa: E402
from metrics_load import Load  # noqa: E402
from test_metrics import Metered, expression_of, panels  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as pyplot  # noqa: E402
from matplotlib.ticker import EngFormatter, FuncFormatter  # noqa: E402

# (dashboard, title), row by row.
SHOWN = [
    ("reprise-overview", "Time to first token"), ("reprise-overview", "Inter-token latency"),
    ("reprise-overview", "Where a request's time goes"),
    ("reprise-overview", "Tokens by kind"), ("reprise-scheduler", "Sequences"),
    ("reprise-scheduler", "Slots in use"),
    ("reprise-state-store", "Time to save a state"),
    ("reprise-state-store", "Bytes saved and loaded"), ("reprise-scheduler", "Rows of a step"),
]
COLUMNS = 3
MOST_LINES = 6
FORMATS = {"s": EngFormatter("s"), "Bps": EngFormatter("B/s"), "bytes": EngFormatter("B"),
           "percentunit": FuncFormatter(lambda value, _: f"{value:.0%}")}
SETTLE_SECONDS = 15  # until rates are there


def find_panel(dashboard, title):
    board = json.loads((ROOT / "deploy" / "grafana" / f"{dashboard}.json").read_text())
    return next(panel for panel in panels(board) if panel["title"] == title)


def legend_of(target, labels):
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), target["legendFormat"])


def draw_panel(axes, panel, prometheus, start, end):
    lines = []
    for target in panel["targets"]:
        for labels, values in prometheus.query_range(expression_of(target), start, end, "2s"):
            values = [(t - start, v) for t, v in values if math.isfinite(v)]
            if values:
                lines.append((legend_of(target, labels), values))
    assert lines, panel["title"]
    lines.sort(key=lambda line: -max(value for _, value in line[1]))
    for legend, values in lines[:MOST_LINES]:
        axes.plot(*zip(*values), label=legend, linewidth=1.2)
    axes.set_title(panel["title"], fontsize=9, loc="left")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, end - start)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    axes.yaxis.set_major_formatter(
        FORMATS.get(panel["fieldConfig"]["defaults"]["unit"], EngFormatter()))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=6, loc="upper left", framealpha=0.6)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--out", default=ROOT / "docs" / "images" / "dashboard.png",
                        type=pathlib.Path)
    options = parser.parse_args()
    model = conftest._bundled_model()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        with LocalRedis(folder / "redis") as redis, \
                Metered(model, folder / "server", ["--slots", "4"], redis.url) as server, \
                local_prometheus.LocalPrometheus(folder / "prometheus",
                                                 [server.target]) as prometheus:
            # A third of the time two callers, then three times as many, then two again.
            third = options.seconds / 3
            with Load(server, threads=2):
                time.sleep(SETTLE_SECONDS)
                start = time.time()
                time.sleep(third)
                with Load(server, threads=6, name="more"):
                    time.sleep(third)
                time.sleep(third)
            end = time.time()
            rows = -(-len(SHOWN) // COLUMNS)
            figure, grid = pyplot.subplots(rows, COLUMNS, figsize=(13, 2.6 * rows))
            for axes, (dashboard, title) in zip(grid.flat, SHOWN):
                draw_panel(axes, find_panel(dashboard, title), prometheus, start, end)
            figure.tight_layout()
            options.out.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(options.out, dpi=80)


if __name__ == "__main__":
    main()
