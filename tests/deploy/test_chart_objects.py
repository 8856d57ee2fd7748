"""What must hold between the chart's objects, whatever the values."""

import os
import pathlib
import re
import subprocess

import pytest
import yaml

from chart import EXAMPLES
from helm import CHART, ROOT

BUILD = pathlib.Path(os.environ.get("REPRISE_BUILD_DIR") or ROOT / "build" / "release").resolve()


@pytest.fixture(params=["defaults", *EXAMPLES])
def objects(chart, request):
    return chart.render(None if request.param == "defaults" else request.param)


def test_every_flag_is_one_that_reprised_knows(objects):
    help_text = subprocess.run([BUILD / "service" / "reprised", "--help"], text=True, capture_output=True, check=True).stdout
    documented = (ROOT / "docs" / "configuration.md").read_text()
    assert len(objects.config) > 5
    for flag in objects.config:
        assert re.search(rf"--{flag}\b(?!-)", help_text), flag
        assert f"| `--{flag}` |" in documented
    assert objects.server["args"][:2] == ["--config", "/etc/reprise/config/reprised.conf"]


def test_files_that_the_config_names_are_mounted(objects):
    mounts = {m["mountPath"]: m for m in objects.server["volumeMounts"]}
    volumes = {v["name"]: v for v in objects.pod["spec"]["volumes"]}
    assert {m["name"] for m in mounts.values()} == set(volumes)
    for flag, value in objects.config.items():
        path = value.strip('"')
        if path.startswith("/etc/reprise/"):
            folder, name = path.rsplit("/", 1)
            mount = mounts[folder]
            assert mount["readOnly"] and "subPath" not in mount  # a subPath is never replaced
            secret = volumes[mount["name"]].get("secret", {})
            assert not secret.get("items") or name in [item["path"] for item in secret["items"]]
    for model in re.findall(r"=(/[^\"]+)", objects.config["model"]):
        assert model.startswith(("/opt/reprise/", *(p for p, m in mounts.items() if m["name"] == "models")))


def test_selectors_find_the_servers_and_nothing_else(objects):
    for service in objects.of("Service"):
        kind = "StatefulSet" if service["metadata"]["name"].endswith("-redis") else "Deployment"
        assert [k for k, _ in objects.selected(service["spec"]["selector"])] == [kind]
    for kind in ("Deployment", "StatefulSet"):
        for an_object in objects.of(kind):
            assert [k for k, _ in objects.selected(an_object["spec"]["selector"]["matchLabels"])] == [kind]
    for policy in objects.of("NetworkPolicy"):
        assert len(objects.selected(policy["spec"]["podSelector"]["matchLabels"])) == 1
    for budget in objects.of("PodDisruptionBudget"):
        assert [k for k, _ in objects.selected(budget["spec"]["selector"]["matchLabels"])] == ["Deployment"]
    for constraint in objects.pod["spec"]["topologySpreadConstraints"]:
        assert [k for k, _ in objects.selected(constraint["labelSelector"]["matchLabels"])] == ["Deployment"]
    for monitor in objects.of("ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"].items()
        [service] = [s for s in objects.of("Service") if labels <= s["metadata"]["labels"].items()]
        assert {e["port"] for e in monitor["spec"]["endpoints"]} <= {p["name"] for p in service["spec"]["ports"]}
    for monitor in objects.of("PodMonitor"):
        [(_, pod)] = objects.selected(monitor["spec"]["selector"]["matchLabels"])
        ports = {p["name"] for p in pod["spec"]["containers"][0]["ports"]}
        assert {e["port"] for e in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_ports_have_one_name_and_one_number(objects):
    ports = {p["name"]: p["containerPort"] for p in objects.server["ports"]}
    assert objects.config["listen"].strip('"').endswith(f":{ports['grpc']}")
    assert objects.config["metrics-listen"].strip('"').endswith(f":{ports['metrics']}")
    for suffix in ("", "-headless"):
        for port in objects.one("Service", suffix)["spec"]["ports"]:
            assert port["targetPort"] == port["name"] and port["port"] == ports[port["name"]]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert objects.server[probe]["httpGet"]["port"] in ports
    assert objects.one("Service", "-headless")["spec"]["clusterIP"] == "None"


def test_the_network_policy_opens_what_is_needed(objects):
    policy = objects.one("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [p["port"] for rule in policy["ingress"] for p in rule["ports"]] == ["grpc", "metrics"]
    assert all(rule["from"] for rule in policy["ingress"])  # an empty list would be everybody
    egress = [p["port"] for rule in policy["egress"] for p in rule["ports"]]
    assert egress[:2] == [53, 53]
    store = objects.config["store"].strip('"')
    if "://trial-reprise-redis" in store:
        [redis] = [rule for rule in policy["egress"] if rule["ports"][0]["port"] == "redis"]
        assert objects.selected(redis["to"][0]["podSelector"]["matchLabels"])[0][0] == "StatefulSet"
    else:
        for port in re.findall(r":(\d+)", store):
            assert int(port) in egress


def test_nothing_is_killed_while_it_drains(objects):
    drain = int(objects.config["drain-seconds"].strip('"'))
    sleep = objects.server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert objects.pod["spec"]["terminationGracePeriodSeconds"] > sleep + drain + 10  # and the write-behind queue


def test_pods_have_no_rights_that_they_do_not_need(objects):
    pods = [p for _, p in objects.selected({})]
    assert len(pods) >= 2
    for pod in pods:
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 10000
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in spec["containers"] + spec.get("initContainers", []):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
    for account in objects.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_secrets_stay_in_secrets(chart):
    objects = chart.render()
    password = objects.one("Secret", "-redis")["stringData"]["password"]
    assert len(password) >= 32
    for an_object in objects:
        if an_object["kind"] != "Secret":
            assert password not in yaml.safe_dump(an_object)


def test_a_changed_config_rolls_the_pods(chart):
    checksum = lambda **values: chart.render(**values).pod["metadata"]["annotations"]["checksum/config"]
    assert checksum() == checksum(podLabels={"a": "b"}) != checksum(config={"slots": 7})


def test_large_numbers_of_the_config_stay_whole(chart):
    config = chart.render(config={"host-cache-bytes": 8589934592, "store-timeout-seconds": 2.5, "slots": "auto",
                                  "sweep-seconds": 0, "reflection": "off"}).config
    assert config["host-cache-bytes"] == '"8589934592"' and config["store-timeout-seconds"] == '"2.5"'
    assert config["slots"] == '"auto"' and config["sweep-seconds"] == '"0"' and config["reflection"] == '"off"'


def test_a_gpu_is_asked_for_and_used(chart):
    objects = chart.render("gpu-production")
    assert objects.server["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 1}
    assert objects.config["device"] == '"cuda"'
    assert chart.render().config["device"] == '"cpu"' and "nvidia.com/gpu" not in chart.render().server["resources"]["limits"]


def test_the_autoscaler_follows_a_metric_that_exists(chart):
    objects = chart.render("gpu-production")
    assert "replicas" not in objects.one("Deployment")["spec"]  # or each upgrade would undo it
    scaler = objects.one("HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == objects.one("Deployment")["metadata"]["name"]
    documented = (ROOT / "docs" / "metrics.md").read_text()
    for metric in scaler["metrics"]:
        assert f"| `{metric['pods']['metric']['name']}` | gauge |" in documented


def test_rules_and_dashboards_are_those_of_deploy(chart):
    objects = chart.render("gpu-production")
    groups = []
    for file in sorted((ROOT / "deploy" / "prometheus").glob("*.yaml")):
        groups += yaml.safe_load(file.read_text())["groups"]
    assert objects.one("PrometheusRule")["spec"]["groups"] == groups
    dashboards = objects.one("ConfigMap", "-dashboards")
    sources = list((ROOT / "deploy" / "grafana").glob("*.json"))
    assert sources and dashboards["data"].keys() == {s.name for s in sources}
    for source in sources:
        assert dashboards["data"][source.name].strip() == source.read_text().strip()
    without = chart.render("ha-sentinel").one("PrometheusRule")["spec"]["groups"]
    assert without == [g for g in groups if "vllm" not in g["name"]] and len(without) < len(groups)


def test_the_helm_test_calls_the_service(chart):
    [container] = chart.render().one("Pod", "-test-health")["spec"]["containers"]
    assert container["command"] == ["/opt/reprise/bin/reprise", "--server", "trial-reprise:7420", "health"]
    [container] = chart.render("mtls").one("Pod", "-test-health")["spec"]["containers"]
    assert "/dev/tcp/trial-reprise/7420" in container["command"][-1]
    hook = (CHART / "templates" / "tests" / "health.yaml").read_text()
    assert "helm.sh/hook: test\n" in hook


def test_the_notes_say_what_is_not_safe(chart):
    trial, production = chart.render().notes, chart.render("mtls").notes
    assert "reprise --server 127.0.0.1:7420 models list" in trial and "serves tale-20m." in trial
    for warning in ("not encrypted", "one tenant", "for trials"):
        assert warning in trial and warning not in production


def test_budgets_only_where_there_are_several(chart):
    assert chart.render().of("PodDisruptionBudget") == []
    assert len(chart.render(replicas=2).of("PodDisruptionBudget")) == 1


def test_the_readme_lists_every_value():
    import readme_table
    assert readme_table.table() in (CHART / "README.md").read_text(), "tests/deploy/readme_table.py prints the new table"
