"""The Dockerfile and the trial with Compose, as far as they can be checked without an engine."""

import fnmatch
import json
import os
import pathlib
import re
import subprocess
import sysconfig
import tarfile

import jsonschema
import pytest
import yaml

from helm import CHART, ROOT

BUILD = pathlib.Path(os.environ.get("REPRISE_BUILD_DIR") or ROOT / "build" / "release").resolve()
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"


def hadolint(path):
    program = pathlib.Path(sysconfig.get_path("scripts")) / "hadolint"
    assert program.exists(), "tools/install_dependencies.sh --tests brings it"
    done = subprocess.run([program, "--no-color", "--failure-threshold", "style", "--format", "json", path],
                          text=True, capture_output=True)
    return [finding["code"] for finding in json.loads(done.stdout)]


def instructions():
    """(name, rest) of each instruction, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.strip().split(None, 1)) for line in text.splitlines() if line.strip()]


def test_the_dockerfile_passes_its_linter(tmp_path):
    assert hadolint(DOCKERFILE) == []
    worse = tmp_path / "Dockerfile"
    worse.write_text(DOCKERFILE.read_text().replace("debian:12-slim", "debian"))
    assert "DL3006" in hadolint(worse)
    assert "hadolint ignore" not in DOCKERFILE.read_text()


def test_the_image_runs_without_rights(chart):
    last = instructions()[[i for i, (name, _) in enumerate(instructions()) if name == "FROM"][-1]:]
    found = {name: rest for name, rest in last}
    user = chart.render().pod["spec"]["securityContext"]["runAsUser"]
    assert found["USER"] == f"{user}:{user}"
    assert set(found["EXPOSE"].split()) == {str(p["containerPort"]) for p in chart.render().server["ports"]}
    assert not any(name in ("RUN", "ADD") for name, _ in last)  # nothing but the bundle is added to the base
    assert found["STOPSIGNAL"] == "SIGTERM" and "HEALTHCHECK" in found


def test_what_the_image_starts_is_in_the_bundle(chart, tmp_path):
    tarball = tmp_path / "bundle.tar.gz"
    made = subprocess.run([ROOT / "tools" / "bundle.sh", "--build", BUILD, tarball], text=True, capture_output=True)
    assert made.returncode == 0, made.stdout + made.stderr
    with tarfile.open(tarball) as archive:
        names = {"/opt/reprise/" + name.partition("/")[2] for name in archive.getnames()}
    rest = dict(instructions())
    paths = json.loads(rest["ENTRYPOINT"]) + json.loads(rest["CMD"])[1:]
    paths += json.loads(rest["HEALTHCHECK"].partition("CMD ")[2])[:1]
    paths += chart.render().one("Pod", "-test-health")["spec"]["containers"][0]["command"][:1]
    paths += re.findall(r"=(/[^\"]+)", chart.render().config["model"])
    paths += [c.partition("=")[2] for c in yaml.safe_load(COMPOSE.read_text())["services"]["reprised"]["command"][:1]]
    assert len(paths) == 6
    for path in paths:
        assert path in names, path


@pytest.mark.parametrize("path", [".git/config", ".venv/bin/python", "build/test/x", "build-asan/x", "a/b/tls.key", "c.pem"])
def test_nothing_private_comes_into_the_build(path):
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert any(fnmatch.fnmatch(part, pattern) for pattern in patterns if "/" not in pattern
               for part in [path.split("/")[0]]) or any(
        fnmatch.fnmatch(path, pattern.removeprefix("**/")) for pattern in patterns if pattern.startswith("**/"))


def test_nothing_that_is_built_is_kept_out():
    patterns = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()
                if line and not line.startswith("#")]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.split("\n")
    for name in filter(None, tracked):
        assert not any(fnmatch.fnmatch(name.split("/")[0], p) or fnmatch.fnmatch(name, p) for p in patterns), name


def test_compose_is_what_its_specification_says():
    compose = yaml.safe_load(COMPOSE.read_text())
    # As the package docker-compose brings it; the project's name came to the specification later.
    assert compose.pop("name")
    packages = pathlib.Path(sysconfig.get_path("purelib"))
    schema = json.loads((packages / "compose" / "config" / "compose_spec.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(compose)
    compose["services"]["reprised"]["port"] = []
    assert list(validator.iter_errors(compose))


def test_compose_names_what_is_there():
    compose = yaml.safe_load(COMPOSE.read_text())
    for service in compose["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")  # published to nobody else
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (COMPOSE.parent / source).exists(), source
        assert not re.search(r":latest$|^[^:]+$", service["image"])
    flags = [argument.partition("=")[0] for argument in compose["services"]["reprised"]["command"]]
    documented = (ROOT / "docs" / "configuration.md").read_text()
    for flag in flags:
        assert f"| `{flag}` |" in documented
    grace = int(compose["services"]["reprised"]["stop_grace_period"].removesuffix("s"))
    [drain] = [a for a in compose["services"]["reprised"]["command"] if a.startswith("--drain-seconds=")]
    assert grace > int(drain.partition("=")[2]) + 10
    assert compose["services"]["redis"]["image"].split("/")[-1] == \
        yaml.safe_load((CHART / "values.yaml").read_text())["redis"]["bundled"]["image"].split("/")[-1]


def test_prometheus_accepts_its_configuration(tmp_path):
    config = (COMPOSE.parent / "prometheus.yaml").read_text()
    target = yaml.safe_load(config)["scrape_configs"][0]["static_configs"][0]["targets"][0]
    assert target == "reprised:9420"
    here = tmp_path / "prometheus.yaml"
    here.write_text(config.replace("/etc/prometheus/rules", str(ROOT / "deploy" / "prometheus")))
    done = subprocess.run(["promtool", "check", "config", here], text=True, capture_output=True)
    assert done.returncode == 0 and "rules found" in done.stdout, done.stdout + done.stderr
