"""A real server and a real Redis read what the chart gives them."""

import os
import pathlib
import socket
import subprocess
import time
import urllib.request

from helm import ROOT

BUILD = pathlib.Path(os.environ.get("REPRISE_BUILD_DIR") or ROOT / "build" / "release").resolve()
START_SECONDS = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition):
    give_up = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_the_default_release_serves(chart, tmp_path):
    objects = chart.render()
    secret = objects.one("Secret", "-redis")["stringData"]
    redis_port, port, metrics_port = free_port(), free_port(), free_port()
    (tmp_path / "password").write_text(secret["password"])
    (tmp_path / "redis.conf").write_text(secret["redis.conf"].replace("port 6379", f"port {redis_port}\nbind 127.0.0.1")
                                         .replace("/data", str(tmp_path)))
    conf = objects.one("ConfigMap")["data"]["reprised.conf"]
    for ours, here in [("trial-reprise-redis:6379", f"127.0.0.1:{redis_port}"), ("/etc/reprise/redis", str(tmp_path)),
                       ("0.0.0.0:7420", f"127.0.0.1:{port}"), ("0.0.0.0:9420", f"127.0.0.1:{metrics_port}"),
                       ("/opt/reprise/share/reprise/models", str(ROOT / "models" / "bundled"))]:
        assert ours in conf
        conf = conf.replace(ours, here)
    (tmp_path / "reprised.conf").write_text(conf)
    processes = [subprocess.Popen(["redis-server", str(tmp_path / "redis.conf")], stdout=subprocess.DEVNULL)]
    try:
        redis = ["redis-cli", "-p", str(redis_port), "-a", secret["password"], "--no-auth-warning"]
        wait_until(lambda: subprocess.run([*redis, "ping"], capture_output=True).stdout == b"PONG\n")
        policy = subprocess.run([*redis, "config", "get", "maxmemory-policy"], capture_output=True, text=True).stdout
        assert policy.split() == ["maxmemory-policy", "noeviction"]
        with open(tmp_path / "log", "w") as log:
            processes.append(subprocess.Popen([BUILD / "service" / "reprised", "--config", tmp_path / "reprised.conf",
                                               *objects.server["args"][2:]], stderr=log))
        readiness = objects.server["readinessProbe"]["httpGet"]["path"]
        liveness = objects.server["livenessProbe"]["httpGet"]["path"]
        wait_until(lambda: answers(f"http://127.0.0.1:{metrics_port}{readiness}") or processes[1].poll() is not None)
        assert processes[1].poll() is None, (tmp_path / "log").read_text()
        assert answers(f"http://127.0.0.1:{metrics_port}{liveness}")
        reprise = [BUILD / "clients" / "reprise", "--server", f"127.0.0.1:{port}"]
        for command in (["sessions", "create", "kept"], ["generate", "Once", "--session", "kept", "-n", "4",
                                                         "--durability", "sync"]):
            done = subprocess.run([*reprise, *command], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        keys = subprocess.run([*redis, "dbsize"], capture_output=True, text=True).stdout
        assert int(keys) > 0
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=60)
