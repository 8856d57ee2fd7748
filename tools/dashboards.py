#!/usr/bin/env python3
"""Writes the Grafana dashboards in deploy/grafana from the tables below.

    tools/dashboards.py           # writes them
    tools/dashboards.py --check   # fails if they are not what it would write
"""

import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "deploy" / "grafana"

# Of every query: M selects by model and server, S by server alone.
M = 'model_name=~"$model_name",instance=~"$instance"'
S = 'instance=~"$instance"'
R = "[$__rate_interval]"


def quantiles(metric, selector=M, by="le"):
    """The median and the tails of a histogram."""
    return [(f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{{{selector}}}{R})))",
             f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)]


def rate(metric, by, selector=M, legend=None):
    return (f"sum by ({by}) (rate({metric}{{{selector}}}{R}))",
            legend or " ".join("{{%s}}" % label.strip() for label in by.split(",")))


def last(expression, legend):
    return (expression, legend)


# Title, unit, description, queries; and, where it is no graph, its kind.
OVERVIEW = [
    ("Servers", [
        ("Servers up", "none", "Servers that Prometheus reaches and that do not drain.",
         [last(f"count(reprise_draining{{{S}}} == 0)", "servers")], "stat"),
        ("Running", "none", "Sequences with a slot.",
         [last(f"sum(reprise_requests_running{{{M}}})", "running")], "stat"),
        ("Waiting", "none", "Requests that have not started, and sequences that gave up their slot.",
         [last(f"sum(reprise_requests_waiting{{{M}}}) + sum(reprise_requests_parked{{{M}}})",
               "waiting")], "stat"),
        ("Tokens per second", "none", "Tokens that are generated, over all servers.",
         [last(f"sum(rate(reprise_generation_tokens_total{{{M}}}{R}))", "tokens")], "stat"),
    ]),
    ("What callers see", [
        ("Time to first token", "s", "From the queue to the first token, restored sessions included.",
         quantiles("reprise_time_to_first_token_seconds")),
        ("Inter-token latency", "s", "Between two tokens of one request.",
         quantiles("reprise_inter_token_latency_seconds")),
        ("Whole requests", "s", "From the arrival of a Generate call to its end, commit included.",
         quantiles("reprise_e2e_request_latency_seconds")),
        ("Calls", "reqps", "Calls that ended, by method; failed ones too.",
         [rate("reprise_rpc_requests_total", "method", S)]),
        ("Failed calls", "reqps", "By the reason that the caller was told.",
         [rate("reprise_rpc_errors_total", "reason", S)]),
        ("How requests end", "reqps", "Of the requests that the scheduler accepted.",
         [rate("reprise_requests_finished_total", "finished_reason")]),
    ]),
    ("Tokens", [
        ("Tokens by kind", "none",
         "Prompt tokens that were computed, found in the prefix cache or shared by forks; tokens that "
         "came with a session's state; generated ones. Per second.",
         [rate("reprise_prompt_tokens_total", "source", legend="prompt, {{source}}"),
          (f"sum(rate(reprise_restored_tokens_total{{{M}}}{R}))", "restored"),
          (f"sum(rate(reprise_generation_tokens_total{{{M}}}{R}))", "generated")]),
        ("Where a request's time goes", "s", "Mean of each phase over the requests that ended.",
         [(f"sum(rate(reprise_request_{phase}_time_seconds_sum{{{M}}}{R})) / "
           f"sum(rate(reprise_request_{phase}_time_seconds_count{{{M}}}{R}))", phase)
          for phase in ("prepare", "queue", "prefill", "decode", "commit")]),
    ]),
]

STORE = [
    ("Sessions", [
        ("Store reachable", "none", "1 on each server that reaches the shared store.",
         [last(f"min(reprise_store_up{{{S}}})", "store")], "stat"),
        ("Sessions held", "none", "Sessions on which servers work at the moment, by lease.",
         [last(f"sum(reprise_leases_held{{{S}}})", "held")], "stat"),
        ("Turns to be written", "none", "Acknowledged ASYNC turns that are not in the store yet.",
         [last(f"sum(reprise_write_behind_commits{{{S}}})", "turns")], "stat"),
        ("Turns lost", "none", "Acknowledged turns that could not be stored, in the last day.",
         [last(f'sum(increase(reprise_write_behind_events_total{{{S},event="lost"}}[1d]))', "lost")],
         "stat"),
    ]),
    ("States between tiers", [
        ("Time to save a state", "s",
         "95th percentile by tier: from a slot (device), to the host's tiers as a call waits for it "
         "(host), to the store itself (store).",
         [(f"histogram_quantile(0.95, sum by (le, tier) (rate("
           f'reprise_state_transfer_seconds_bucket{{{S},direction="save"}}{R})))', "{{tier}}")]),
        ("Time to load a state", "s", "The same on the way back.",
         [(f"histogram_quantile(0.95, sum by (le, tier) (rate("
           f'reprise_state_transfer_seconds_bucket{{{S},direction="load"}}{R})))', "{{tier}}")]),
        ("Bytes saved and loaded", "Bps", "States that were moved, by tier.",
         [rate("reprise_state_transfer_bytes_total", "tier, direction", S)]),
        ("Host cache", "percentunit", "Loads of sessions that the host cache answered.",
         [(f'sum(rate(reprise_host_cache_lookups_total{{{S},result="hit"}}{R})) / '
           f"sum(rate(reprise_host_cache_lookups_total{{{S}}}{R}))", "hits")]),
        ("Host memory of states", "bytes", "Cache, write-behind queue and prefix cache.",
         [(f"sum(reprise_host_cache_bytes{{{S}}})", "host cache"),
          (f"sum(reprise_write_behind_bytes{{{S}}})", "write-behind"),
          (f"sum(reprise_prefix_cache_bytes{{{S}}})", "prefix cache"),
          (f"sum(reprise_parked_bytes{{{S}}})", "parked")]),
        ("Tokens restored", "none", "Tokens per second that came with states and were not computed.",
         [(f"sum(rate(reprise_restored_tokens_total{{{S}}}{R}))", "restored")]),
    ]),
    ("Store", [
        ("Calls of the store", "s", "95th percentile by operation.",
         [(f"histogram_quantile(0.95, sum by (le, operation) (rate("
           f'reprise_store_operation_seconds_bucket{{{S},tier="store"}}{R})))', "{{operation}}")]),
        ("Errors of the store", "reqps", "By kind; sessions that are not there are callers' errors.",
         [rate("reprise_store_errors_total", "kind", S + ',tier="store"')]),
        ("Write-behind", "reqps", "What happens to ASYNC turns.",
         [rate("reprise_write_behind_events_total", "event", S)]),
        ("Leases", "reqps", "Sessions taken, lost to others, and taken anew after an outage.",
         [rate("reprise_lease_events_total", "event", S)]),
        ("Fencing", "reqps", "Commits refused since another server may have the session.",
         [rate("reprise_store_fencing_rejections_total", "instance", S)]),
        ("Commits without the store", "reqps", "Reads and commits while the store did not answer.",
         [rate("reprise_store_degraded_total", "operation", S)]),
    ]),
]

SCHEDULER = [
    ("Slots", [
        ("Slots in use", "percentunit", "0 idle, 1 full.",
         [("1 - sum by (instance) (reprise_slots_free{%s}) / sum by (instance) (reprise_slots{%s})"
           % (M, M), "{{instance}}")]),
        ("Sequences", "none", "With a slot, waiting for the first one, parked, and held up by a "
         "client that does not read.",
         [(f"sum(reprise_requests_{state}{{{M}}})", state)
          for state in ("running", "waiting", "parked", "paused")]),
        ("Changes of slots", "ops", "Sequences parked, states put into slots, checkpoints taken.",
         [(f"sum(rate(reprise_{what}_total{{{M}}}{R}))", what)
          for what in ("parks", "restores", "checkpoints")]),
        ("Queue time", "s", "From the queue to the first slot, loading of the state included.",
         quantiles("reprise_request_queue_time_seconds")),
        ("Refused", "reqps", "Requests that were not accepted, by reason.",
         [rate("reprise_requests_refused_total", "reason")]),
        ("Prefill time", "s", "From the first slot to the first token.",
         quantiles("reprise_request_prefill_time_seconds")),
    ]),
    ("Steps", [
        ("Steps", "ops", "Forward passes per second.",
         [rate("reprise_steps_total", "model_name")]),
        ("Time of a step", "s", "Mean, in the model with sampling, and in the scheduler around it.",
         [(f"sum by (phase) (rate(reprise_step_seconds_sum{{{M}}}{R})) / "
           f"sum by (phase) (rate(reprise_step_seconds_count{{{M}}}{R}))", "{{phase}}")]),
        ("Rows of a step", "none", "Mean, of decoding sequences and of prompts.",
         [(f"sum by (kind) (rate(reprise_step_rows_sum{{{M}}}{R})) / "
           f"sum by (kind) (rate(reprise_step_rows_count{{{M}}}{R}))", "{{kind}}")]),
    ]),
    ("Prefix cache", [
        ("Tokens found", "percentunit", "Of the tokens of all prompts that were looked up.",
         [(f"sum(rate(reprise_prefix_cache_hit_tokens_total{{{M}}}{R})) / "
           f"sum(rate(reprise_prefix_cache_query_tokens_total{{{M}}}{R}))", "found")]),
        ("Lookups", "reqps", "Hits, and why nothing was reused.",
         [rate("reprise_prefix_cache_lookups_total", "result")]),
        ("States that left", "ops", "To make room, or unused for too long.",
         [rate("reprise_prefix_cache_evictions_total", "cause")]),
        ("Spill", "bytes", "Evicted states in host memory; shared ones on their way to Redis and there.",
         [(f"sum(reprise_prefix_spill_bytes{{{S}}})", "host memory"),
          (f"max(reprise_prefix_share_bytes{{{S}}})", "in Redis"),
          (f"sum(reprise_prefix_share_queued_bytes{{{S}}})", "to Redis")]),
        ("States from the spill", "ops", "By where they were: host memory, Redis.",
         [rate("reprise_prefix_spill_hits_total", "tier", S)]),
        ("Spill: states that left, shared prefixes", "ops",
         "Evicted from host memory, or from Redis by cap; written to Redis, dropped, damaged, "
         "missed, failed.",
         [(f"sum(rate(reprise_prefix_spill_evictions_total{{{S}}}{R}))", "evicted"),
          (f"sum by (cap) (rate(reprise_prefix_share_evictions_total{{{S}}}{R}))",
           "evicted from Redis: {{cap}}"),
          rate("reprise_prefix_share_events_total", "event", S)]),
    ]),
]

DEVICE = [
    ("Device", [
        ("Device failed", "none", "1 where a device has failed: the process must be restarted.",
         [last(f"max(reprise_device_failed{{{M}}})", "failed")], "stat"),
        ("Memory in use", "percentunit", "Of the device that the models run on.",
         [last(f"1 - sum(reprise_device_memory_free_bytes{{{S}}}) / "
               f"sum(reprise_device_memory_bytes{{{S}}})", "used")], "stat"),
        ("Model", "none", "Architecture, type of the weights, device and numerics.",
         [last(f"reprise_model_info{{{M}}}",
               "{{architecture}} {{dtype}} {{device}} {{numerics}}")], "stat"),
    ]),
    ("Load", [
        ("Model busy", "percentunit", "Part of the time in which the model computes.",
         [(f'sum by (instance) (rate(reprise_step_seconds_sum{{{M},phase="model"}}{R}))',
           "{{instance}}")]),
        ("Device memory", "bytes", "Total, free, weights, and slots for states.",
         [(f"sum(reprise_device_memory_bytes{{{S}}})", "total"),
          (f"sum(reprise_device_memory_free_bytes{{{S}}})", "free"),
          (f"sum(reprise_model_weight_bytes{{{M}}})", "weights"),
          (f"sum(reprise_slots{{{M}}} * reprise_model_state_bytes{{{M}}})", "slots")]),
        ("Weights read", "Bps",
         "Steps times the bytes of the weights: decoding is bound by it, so compare it with the "
         "device's memory bandwidth.",
         [(f"sum by (instance) (rate(reprise_steps_total{{{M}}}{R}) * "
           f"on (instance, model_name) reprise_model_weight_bytes{{{M}}})", "{{instance}}")]),
        ("States copied", "Bps", "Between slots and host memory.",
         [rate("reprise_state_transfer_bytes_total", "direction", M + ',tier="device"')]),
        ("Time of a copy", "s", "Mean, of one state.",
         [(f'sum by (direction) (rate(reprise_state_transfer_seconds_sum{{{M},tier="device"}}{R})) / '
           f"sum by (direction) (rate("
           f'reprise_state_transfer_seconds_count{{{M},tier="device"}}{R}))', "{{direction}}")]),
    ]),
    ("Host", [
        ("Processor", "none", "Cores that the process keeps busy.",
         [(f"rate(process_cpu_seconds_total{{{S}}}{R})", "{{instance}}")]),
        ("Memory of the process", "bytes", "Resident.",
         [(f"process_resident_memory_bytes{{{S}}}", "{{instance}}")]),
        ("File descriptors", "none", "Open ones.",
         [(f"process_open_fds{{{S}}}", "{{instance}}")]),
    ]),
]

DASHBOARDS = {
    "reprise-overview": ("Reprise / Overview", OVERVIEW),
    "reprise-state-store": ("Reprise / Sessions and state store", STORE),
    "reprise-scheduler": ("Reprise / Scheduler", SCHEDULER),
    "reprise-gpu": ("Reprise / GPU", DEVICE),
}

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24


def variable(name, label, metric):
    return {
        "name": name, "label": label, "type": "query", "datasource": DATASOURCE,
        "query": {"query": f"label_values({metric}, {name})", "refId": name},
        "definition": f"label_values({metric}, {name})", "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def panel(number, title, unit, description, queries, kind, x, y, width, height):
    shown = {
        "id": number, "type": kind, "title": title, "description": description,
        "datasource": DATASOURCE, "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": expression,
                     "legendFormat": legend} for i, (expression, legend) in enumerate(queries)],
    }
    if kind == "timeseries":
        shown["fieldConfig"]["defaults"]["custom"] = {"lineWidth": 1, "fillOpacity": 10}
        shown["fieldConfig"]["defaults"]["min"] = 0
        shown["options"] = {"legend": {"displayMode": "list", "placement": "bottom"},
                            "tooltip": {"mode": "multi"}}
    else:
        shown["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value",
                            "textMode": "value_and_name" if title == "Model" else "auto"}
    return shown


def dashboard(uid, title, rows):
    panels, y = [], 0
    for heading, row in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": heading, "collapsed": False,
                       "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}, "panels": []})
        y += 1
        stats = [p for p in row if p[4:] == ("stat",)]
        graphs = [p for p in row if p not in stats]
        for kind, some, columns, height in (("stat", stats, max(len(stats), 1), 4),
                                            ("timeseries", graphs, 3 if len(graphs) > 2 else 2, 8)):
            for i, (name, unit, description, queries, *_) in enumerate(some):
                width = WIDTH // columns
                panels.append(panel(len(panels) + 1, name, unit, description, queries, kind,
                                    i % columns * width, y + i // columns * height, width, height))
            y += -(-len(some) // columns) * height
    return {
        "uid": uid, "title": title, "tags": ["reprise"], "schemaVersion": 39, "version": 1,
        "editable": True, "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser", "annotations": {"list": []}, "links": [],
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource",
             "query": "prometheus", "current": {}},
            variable("model_name", "Model", "reprise_model_info"),
            variable("instance", "Server", "reprise_build_info"),
        ]},
        "panels": panels,
    }


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for uid, (title, rows) in DASHBOARDS.items():
        text = json.dumps(dashboard(uid, title, rows), indent=2) + "\n"
        path = FOLDER / f"{uid}.json"
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(str(path))
    if stale:
        sys.exit("not what tools/dashboards.py writes: " + ", ".join(stale))


if __name__ == "__main__":
    main()
