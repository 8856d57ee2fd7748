"""Values that the chart must refuse, and what it says then."""

import pytest

from helm import HelmError

TLS = {"tls": {"enabled": True, "existingSecret": "cert"}}
EXTERNAL = {"mode": "external", "external": {"url": "redis://host:6379"}}


def external(**more):
    return {"redis": {"mode": "external", "external": EXTERNAL["external"] | more}}


@pytest.mark.parametrize("values, complaint", [
    # By the schema.
    ({"replica": 2}, "replica"),
    ({"redis": {"external": {"urls": "x"}}}, "urls"),
    ({"metrics": {"serviceMonitor": {"enable": True}}}, "enable"),
    ({"replicas": "two"}, "replicas"),
    ({"models": []}, "models"),
    ({"models": [{"name": "a b", "path": "/m"}]}, "name"),
    ({"models": [{"name": "a", "path": "m"}]}, "path"),
    ({"models": [{"name": "a"}]}, "path"),
    ({"redis": {"mode": "cluster"}}, "mode"),
    (external(url="redis://user:secret@host:6379"), "url"),
    (external(url="http://host"), "url"),
    ({"image": {"digest": "sha256:1"}}, "digest"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"service": {"port": 80}}, "port"),
    ({"metrics": {"port": 70000}}, "port"),
    ({"profile": "staging"}, "profile"),
    ({"resources": {"limit": {}}}, "limit"),
    ({"config": {"slots": [1]}}, "slots"),
    ({"config": {"--slots": 1}}, "--slots"),
    ({"commonLabels": {"app.kubernetes.io/name": "other"}}, "app.kubernetes.io/name"),
    ({"topologySpread": {"whenUnsatisfiable": "Never"}}, "whenUnsatisfiable"),
    ({"podDisruptionBudget": {"maxUnavailable": 0}}, "maxUnavailable"),
    ({"autoscaling": {"metrics": [{"name": "x"}]}}, "averageValue"),
    # By the templates: what does not go together.
    ({"redis": {"mode": "none"}, "replicas": 2}, "allowed with it: replicas 1"),
    ({"redis": {"mode": "none"}, "autoscaling": {"enabled": True}}, "allowed with it: replicas 1"),
    ({"redis": {"mode": "external"}}, "needs redis.external.url"),
    (external(user="reprise"), "needs redis.external.existingSecret"),
    (external(tls={"existingSecret": "ca"}), "needs a rediss:// URL"),
    (external(url="rediss://host", tls={"clientCertificate": True}), "needs redis.external.tls.existingSecret"),
    ({"drainSeconds": 60, "terminationGracePeriodSeconds": 89}, "at least 90"),
    ({"tls": {"enabled": True}}, "needs tls.existingSecret"),
    ({"tls": {"clientCertificates": True}}, "need tls.enabled"),
    ({"tls": TLS["tls"] | {"certificateTenant": "a"}}, "needs tls.clientCertificates"),
    ({"auth": {"jwt": {"issuer": "x"}}}, "jwksConfigMap, issuer and audience"),
    ({"profile": "production"}, "profile production needs"),
    ({"profile": "production"} | TLS, "profile production needs"),
    ({"probes": {"type": "grpc"}} | TLS, "cannot speak TLS"),
    ({"metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}}, "one of them"),
    ({"modelFetch": {"enabled": True}, "modelVolume": {"type": "emptyDir"}}, "needs modelFetch.image"),
    ({"modelFetch": {"enabled": True, "image": "i", "command": ["c"]}}, "other than none"),
    ({"modelVolume": {"type": "emptyDir"}}, "would stay empty"),
    ({"modelVolume": {"type": "hostPath"}}, "needs modelVolume.hostPath"),
    ({"modelVolume": {"type": "claim"}, "replicas": 2}, "ReadOnlyMany or ReadWriteMany"),
    ({"config": {"listen": "0.0.0.0:1"}}, "config.listen"),
    ({"config": {"model": "x=/y"}}, "config.model"),
])
def test_refused(helm, values, complaint):
    with pytest.raises(HelmError) as refusal:
        helm.template(values)
    assert complaint in str(refusal.value)


def test_grace_may_be_longer(chart):
    grace = lambda **v: chart.render(**v).pod["spec"]["terminationGracePeriodSeconds"]
    assert grace(drainSeconds=60) == 90 and grace(terminationGracePeriodSeconds=300) == 300


def test_an_older_kubernetes_is_refused(helm):
    with pytest.raises(HelmError, match="incompatible"):
        helm.template(kube_version="1.29.0")
