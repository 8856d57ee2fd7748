"""A real Prometheus scrapes a server under load: its metrics are those of docs/metrics.md, every panel
of every dashboard has data, every rule and alert finds what it looks at."""

import json
import math
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

import local_prometheus
from local_redis import LocalRedis
from metrics_load import Load
from server_process import ServerProcess

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "deploy" / "prometheus").glob("*.yaml"))
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
PATIENCE = 120

needs_prometheus = pytest.mark.skipif(not local_prometheus.installed(),
                                      reason="prometheus is not installed")


class Metered(ServerProcess):
    """A server with its second port."""

    def __init__(self, model_dir, folder, flags=(), store=None):
        self.port_file = pathlib.Path(folder) / "metrics-port"
        super().__init__(model_dir, folder,
                         ["--metrics-listen", "127.0.0.1:0", "--metrics-port-file", self.port_file,
                          "--metrics-tenants", "2", *flags], store)

    @property
    def target(self):
        return f"127.0.0.1:{int(self.port_file.read_text())}"

    def get(self, page):
        """(status, text)"""
        try:
            with urllib.request.urlopen(f"http://{self.target}{page}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def loaded(model_dir, tmp_path_factory):
    """(server, prometheus), the first under load on a store in Redis, the second scraping it."""
    if not local_prometheus.installed():
        pytest.skip("prometheus is not installed")
    folder = tmp_path_factory.mktemp("metrics")
    with LocalRedis(folder / "redis") as redis, \
            Metered(model_dir, folder / "server", ["--slots", "4"], redis.url) as server, \
            local_prometheus.LocalPrometheus(folder / "prometheus", [server.target],
                                             RULES) as prometheus, \
            Load(server) as load:
        yield server, prometheus, load


def until(prometheus, load, expressions):
    """Waits until each expression has data (a number, not only NaN); says which never had."""
    waiting, give_up = list(expressions), time.monotonic() + PATIENCE
    while True:
        assert not load.errors, load.errors
        waiting = [e for e in waiting
                   if not any(math.isfinite(value) for _, value in prometheus.query(e))]
        if not waiting:
            return
        assert time.monotonic() < give_up, "no data: " + "\n".join(waiting)
        time.sleep(1)


def panels(dashboard):
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            assert not panel["panels"]
        else:
            yield panel


def expression_of(target):
    """A panel's query as Grafana would send it for "All"."""
    expression = target["expr"]
    for name, value in (("$model_name", ".*"), ("$instance", ".*"), ("$__rate_interval", "30s")):
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


SELECTOR = re.compile(r"\b((?:reprise|vllm|process)[a-z0-9_:]*|up)\b(\{[^}]*\})?")


def selectors(expression):
    """What an expression reads: names of metrics, with the series that it wants of them."""
    return {name + (labels or "") for name, labels in SELECTOR.findall(expression)}


def documented():
    """name: (type, labels), from the tables of docs/metrics.md."""
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (counter|gauge|histogram) \| ([a-z_, ]*) ?\|",
                      (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    return {name: (kind, frozenset(labels.replace(",", " ").split())) for name, kind, labels in rows}


def exported(text):
    """The same, from the text format."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels = {name: set() for name in kinds}
    for name, found in re.findall(r"^([a-z0-9_]+)(?:\{([^}]*)\})? ", text, re.MULTILINE):
        family = name if name in kinds else re.sub(r"_(bucket|sum|count)$", "", name)
        labels[family] |= set(re.findall(r'([a-z_]+)="', found)) - {"le"}
    helped = set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    assert helped == set(kinds), "every family is explained"
    return {name: (kinds[name], frozenset(labels[name])) for name in kinds}


def test_the_docs_have_what_the_server_exports_and_nothing_else(loaded):
    server, prometheus, load = loaded
    # Series by tenant come with the first request.
    until(prometheus, load, ["reprise_tenant_requests_total > 0"])
    status, text = server.get("/metrics")
    assert status == 200
    assert exported(text) == documented()
    names = [line.split(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(names) == len(set(names)), "a series twice"


def test_metrics_say_what_happened(loaded):
    _, prometheus, load = loaded
    until(prometheus, load, [
        'reprise_rpc_requests_total{method="reprise.v1.GenerationService/Generate",code="OK"} > 5',
        'reprise_rpc_requests_total{method="reprise.v1.GenerationService/Generate",code="CANCELLED"} > 0',
        'reprise_rpc_errors_total{reason="SESSION_NOT_FOUND"} > 0',
        'reprise_requests_finished_total{finished_reason="cancelled"} > 0',
        'reprise_prefix_cache_hit_tokens_total > 0',
        'reprise_prompt_tokens_total{source="cached"} > 0',
        'reprise_restored_tokens_total > 0',
        'reprise_checkpoints_total > 0',
        'reprise_restores_total > 0',
        'reprise_state_transfer_bytes_total{tier="store",direction="save"} > 0',
        'reprise_host_cache_lookups_total{result="hit"} > 0',
        'reprise_lease_events_total{event="acquired"} > 0',
        'reprise_write_behind_events_total{event="written"} > 0',
        'process_cpu_seconds_total > 0',
        'reprise_device_memory_free_bytes > 0',
    ])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_has_data(loaded, path):
    _, prometheus, load = loaded
    queries = [expression_of(target) for panel in panels(json.loads(path.read_text()))
               for target in panel["targets"]]
    assert len(queries) >= 10
    until(prometheus, load, queries)


def test_rules_are_evaluated_and_alerts_see_what_they_watch(loaded):
    _, prometheus, load = loaded
    rules = prometheus.rules()
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    alerts = [rule for rule in rules if rule["type"] == "alerting"]
    assert len(recorded) > 40 and len(alerts) > 10
    until(prometheus, load, recorded)
    until(prometheus, load, {s for alert in alerts for s in selectors(alert["query"])})
    for rule in prometheus.rules():
        assert rule["health"] == "ok" and not rule.get("lastError"), rule


@needs_prometheus
def test_promtool_accepts_the_rules_and_their_tests_pass():
    check = subprocess.run(["promtool", "check", "rules", *map(str, RULES)], text=True,
                           capture_output=True)
    assert check.returncode == 0 and len(RULES) == 3, check.stdout + check.stderr
    tests = sorted((ROOT / "deploy" / "prometheus" / "tests").glob("*.yaml"))
    assert tests
    run = subprocess.run(["promtool", "test", "rules", *map(str, tests)], text=True,
                         capture_output=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_is_unit_tested_and_names_its_runbook():
    text = (ROOT / "deploy" / "prometheus" / "reprise_alerts.yaml").read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    runbooks = re.findall(r"runbook_url: docs/operations\.md#(\w+)", text)
    assert [alert.lower() for alert in alerts] == runbooks
    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^#+ (Reprise\w+)$", page, re.MULTILINE)) == set(alerts)
    tests = (ROOT / "deploy" / "prometheus" / "tests" / "rules_test.yaml").read_text()
    for alert in alerts:
        fires = re.findall(r"alertname: " + alert + r"\n\s+eval_time: \w+\n\s+exp_alerts:\n\s+- exp",
                           tests)
        assert fires, alert + " never fires in a test"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_whole(path):
    board = json.loads(path.read_text())
    assert board["uid"] == path.stem and board["schemaVersion"] >= 36 and board["title"]
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert {"model_name", "instance"} <= set(variables)
    known = set(documented())
    ids, places = set(), set()
    for panel in board["panels"]:
        assert panel["id"] not in ids
        ids.add(panel["id"])
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & places and place["x"] + place["w"] <= 24, panel["title"]
        places |= cells
    for panel in panels(board):
        assert panel["title"] and panel["description"].endswith("."), panel
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            for selector in selectors(target["expr"]):
                name = re.sub(r"\{.*", "", selector)
                assert name in known or re.sub(r"_(bucket|sum|count)$", "", name) in known, name


def test_dashboards_are_what_the_tool_writes():
    check = subprocess.run([sys.executable, str(ROOT / "tools" / "dashboards.py"), "--check"],
                           text=True, capture_output=True)
    assert check.returncode == 0, check.stderr
    assert len(DASHBOARDS) == 4


def test_probes_during_a_drain(model_dir, tmp_path, connect):
    with Metered(model_dir, tmp_path / "server") as server:
        assert server.get("/healthz") == (200, "alive\n")
        assert server.get("/readyz") == (200, "ready\n")
        turn = connect(server).generate("Once upon a time", max_tokens=60000, ignore_eos=True)
        stream = iter(turn)
        next(stream)
        server.drain()
        give_up = time.monotonic() + PATIENCE
        while server.get("/readyz")[0] == 200:
            assert time.monotonic() < give_up
        assert server.get("/readyz") == (503, "draining\n")
        assert server.get("/healthz")[0] == 200
        assert "\nreprise_draining 1\n" in server.get("/metrics")[1]
        turn.cancel()


def test_a_store_that_is_gone_shows(model_dir, redis, tmp_path):
    with Metered(model_dir, tmp_path / "server", ["--store-timeout-seconds", "1"],
                 redis.url) as server:
        assert server.get("/readyz") == (200, "ready\n")
        assert "\nreprise_store_up 1\n" in server.get("/metrics")[1]
        redis.kill()
        import reprise_client
        with reprise_client.Client(server.address) as client:
            with pytest.raises(reprise_client.Unavailable):
                client.create_session("s")
        give_up = time.monotonic() + PATIENCE
        while "\nreprise_store_up 0\n" not in server.get("/metrics")[1]:
            assert time.monotonic() < give_up
            time.sleep(0.1)
        assert server.get("/readyz") == (200, "ready; the store does not answer\n")
        assert re.search(r'reprise_store_errors_total\{kind="IO_ERROR",tier="store"\} [1-9]',
                         server.get("/metrics")[1])


def test_spans_of_sampled_traces_are_logged(model_dir, tmp_path):
    import grpc
    from reprise_client.v1 import generation_pb2 as pb
    from reprise_client.v1 import generation_pb2_grpc
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with ServerProcess(model_dir, tmp_path / "server", ["--log-format", "json"]) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            for flags in ("01", "00"):
                request = pb.GenerateRequest(text="a secret prompt")
                request.stop.max_tokens = 3
                call = stub.Generate(request, metadata=[
                    ("traceparent", f"00-{trace}-00f067aa0ba902b7-{flags}")])
                assert list(call)
                header = dict(call.initial_metadata())["traceparent"]
                assert header.startswith(f"00-{trace}-") and header.endswith("-" + flags)
                if flags == "01":
                    sampled = header.split("-")[2]
            refused = stub.Generate(pb.GenerateRequest(text="a secret prompt", session="sessions/none",
                                                       request_id="r-7"),
                                    metadata=[("traceparent", f"00-{trace}-00f067aa0ba902b7-00")])
            assert refused.code() == grpc.StatusCode.NOT_FOUND
    text = server.log.read_text()
    assert "secret" not in text
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    failed = next(line for line in lines if line["message"].startswith("Generate refused"))
    assert (failed["request_id"], failed["session"], failed["trace_id"]) == (
        "r-7", "sessions/none", trace)
    spans = [line for line in lines if line["message"] == "span"]
    assert [span["span_id"] for span in spans] == [sampled]
    events = [event["name"] for event in spans[0]["events"]]
    assert events == ["queued", "admitted", "first_token", "decoded"]
    assert spans[0]["parent_span_id"] == "00f067aa0ba902b7" and spans[0]["tokens"]["generated"] == 3
