"""Everything that the chart renders is what Kubernetes and the Prometheus operator accept, and nothing else."""

import copy
import json
import tarfile

import jsonschema
import kubernetes_validate
import pytest
import yaml

from chart import EXAMPLES
from helm import CHART
from operator_schemas import SCHEMAS

ALL_ON = {
    "metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True, "vllmAliases": True},
                "dashboards": {"enabled": True}},
    "autoscaling": {"enabled": True},
    "modelVolume": {"type": "claim", "accessModes": ["ReadOnlyMany"], "storageClass": "fast"},
    "image": {"pullSecrets": ["one", "two"]},
    "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"}, "commonLabels": {"team": "ours"},
    "affinity": {"nodeAffinity": {}}, "priorityClassName": "high", "gpu": {"enabled": True, "runtimeClassName": "nvidia"},
    "extraEnv": [{"name": "A", "value": "b"}], "extraArgs": ["--log-level", "debug"],
    "extraVolumes": [{"name": "more", "emptyDir": {}}], "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "service": {"annotations": {"a": "b"}}, "serviceAccount": {"annotations": {"a": "b"}},
    "networkPolicy": {"extraEgress": [{"ports": [{"port": 443}]}]},
}
VALUES = {"defaults": (None, {}), **{name: (name, {}) for name in EXAMPLES}, "all on": (None, ALL_ON),
          "alone": (None, {"redis": {"mode": "none"}, "networkPolicy": {"enabled": False}}),
          "grpc probes": (None, {"probes": {"type": "grpc"}}),
          "host path": (None, {"modelVolume": {"type": "hostPath", "hostPath": "/srv/models"}})}


@pytest.fixture(params=VALUES, ids=lambda name: name.replace(" ", "-"))
def objects(chart, request):
    example, values = VALUES[request.param]
    return chart.render(example, **values)


def validate(an_object):
    if an_object["apiVersion"].startswith("monitoring.coreos.com/"):
        jsonschema.Draft202012Validator(SCHEMAS[an_object["kind"]]).validate(an_object)
    else:
        kubernetes_validate.validate(an_object, "1.37", strict=True)


def test_objects_are_what_kubernetes_accepts(objects):
    assert len(objects) >= 5
    for an_object in objects:
        validate(an_object)


@pytest.mark.parametrize("break_it", [
    lambda o: o.one("Deployment")["spec"].update(replica=1),
    lambda o: o.server.update(ports=[{"containerPort": "grpc"}]),
    lambda o: o.one("ServiceMonitor")["spec"].update(endpoint=[]),
    lambda o: o.one("PrometheusRule")["spec"]["groups"][0]["rules"][0].update(alerts="x"),
])
def test_the_validation_finds_mistakes(chart, break_it):
    objects = copy.deepcopy(chart.render(**ALL_ON))
    break_it(objects)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        for an_object in objects:
            validate(an_object)


@pytest.mark.parametrize("example", [None, *EXAMPLES])
def test_both_helms_lint_and_render_alike(any_helm, helm, example):
    files = [CHART / "examples" / f"{example}.yaml"] if example else []
    assert json.loads(any_helm.lint(files=files))["passed"]
    values = {"redis": {"mode": "none"}} if example in (None, "cpu-trial") else {}  # no random password
    ours, other = (yaml.safe_load_all(h.template(values, files)) for h in (helm, any_helm))
    by_name = lambda objects: {(o["kind"], o["metadata"]["name"]): o for o in objects if o}
    assert by_name(ours) == by_name(other)


def test_the_package_is_whole(helm, tmp_path):
    """The rules and dashboards are links into deploy/, which a package must carry as files."""
    helm.package(tmp_path)
    [package] = tmp_path.glob("reprise-*.tgz")
    with tarfile.open(package) as archive:
        names = archive.getnames()
        for folder, pattern in [("prometheus", "*.yaml"), ("grafana", "*.json")]:
            sources = list((CHART.parents[1] / folder).glob(pattern))
            assert sources
            for source in sources:
                packed = archive.extractfile(f"reprise/files/{folder}/{source.name}")
                assert packed.read() == source.read_bytes()
    assert "reprise/values.schema.json" in names
    assert not [name for name in names if "/tests/rules" in name or "/examples/" in name]
