"""The real Envoy with deploy/envoy/envoy.yaml in front of two servers that share a Redis."""

import pathlib
import re
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request

import grpc
import pytest
import yaml

from helm import ROOT

PYTHON_CLIENT = ROOT / "clients" / "python"
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(PYTHON_CLIENT), str(PYTHON_CLIENT / "src")]

import generate_stubs  # noqa: E402

generate_stubs.generate()

from local_redis import LocalRedis  # noqa: E402
from reprise_client import Client  # noqa: E402
from reprise_client.v1 import generation_pb2, generation_pb2_grpc, session_pb2, session_pb2_grpc  # noqa: E402
from server_process import ServerProcess  # noqa: E402

CONFIG = ROOT / "deploy" / "envoy" / "envoy.yaml"
MODEL = ROOT / "models" / "bundled" / "tale-20m"
SESSIONS = [f"s-{i}" for i in range(12)]


def envoy(*arguments, **options):
    program = pathlib.Path(sysconfig.get_path("scripts")) / "envoy"
    assert program.exists(), "tools/install_dependencies.sh --tests brings it"
    return subprocess.Popen([program, "--disable-hot-restart", "--concurrency", "1", *arguments], **options)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition):
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_envoy_accepts_the_file_and_not_any_file(tmp_path):
    assert envoy("--mode", "validate", "-c", CONFIG, stderr=subprocess.DEVNULL).wait(timeout=60) == 0
    (tmp_path / "envoy.yaml").write_text(CONFIG.read_text().replace("lb_policy", "lb_policies"))
    assert envoy("--mode", "validate", "-c", tmp_path / "envoy.yaml", stderr=subprocess.DEVNULL).wait(timeout=60) != 0


class Replicas:
    """Two servers, and calls to them through Envoy."""

    def __init__(self, folder, redis):
        self._metrics = [free_port(), free_port()]
        self.servers = [ServerProcess(MODEL, folder / f"server-{i}", ["--metrics-listen", f"127.0.0.1:{port}"],
                                      store=redis.url) for i, port in enumerate(self._metrics)]
        self.port, self.admin = free_port(), free_port()
        config = yaml.safe_load(CONFIG.read_text())
        config["admin"]["address"]["socket_address"]["port_value"] = self.admin
        config["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] = self.port
        [endpoints] = config["static_resources"]["clusters"][0]["load_assignment"]["endpoints"]
        endpoints["lb_endpoints"] = [{"endpoint": {"address": {"socket_address": {
            "address": "127.0.0.1", "port_value": int(server.address.partition(":")[2])}}}} for server in self.servers]
        (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
        self._envoy = envoy("-c", folder / "envoy.yaml", stderr=open(folder / "envoy.log", "w"))
        wait_until(lambda: self.healthy() == 2)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.sessions = session_pb2_grpc.SessionServiceStub(self._channel)
        self.generation = generation_pb2_grpc.GenerationServiceStub(self._channel)

    def close(self):
        self._channel.close()
        self._envoy.terminate()
        self._envoy.wait(timeout=60)
        for server in self.servers:
            server.stop()

    def healthy(self):
        """How many servers Envoy calls."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/stats?filter=membership_healthy", timeout=5) as answer:
                return int(answer.read().decode().partition("membership_healthy: ")[2].split()[0])
        except (OSError, IndexError):
            return 0

    def metric(self, server, name, label=""):
        """The sum of a metric's series on a server that have this label."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics[server]}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines
                   if re.match(rf"{name}[{{ ]", line) and label in line)

    def calls(self, method, total=None):
        """How many calls of `method` have ended on each server; waits until there are `total`."""
        count = lambda: [self.metric(i, "reprise_rpc_requests_total", f'/{method}"') for i in range(2)]
        wait_until(lambda: total is None or sum(count()) >= total)
        return count()

    def get(self, session, header=True):
        metadata = [("reprise-session", session)] if header else []
        return self.sessions.GetSession(session_pb2.GetSessionRequest(name=f"sessions/{session}"),
                                        metadata=metadata, timeout=30)

    def turn(self, session, prompt):
        """Token ids of a turn that Redis has when this returns; greedy."""
        request = generation_pb2.GenerateRequest(session=f"sessions/{session}", text=prompt,
                                                 durability=generation_pb2.DURABILITY_SYNC)
        request.sampling.temperature = 0
        request.stop.max_tokens = 12
        request.stop.ignore_eos = True
        events = self.generation.Generate(request, metadata=[("reprise-session", session)], timeout=60)
        return [i for event in events for i in event.tokens.ids]


@pytest.fixture
def replicas(tmp_path):
    with LocalRedis(tmp_path / "redis") as redis:
        replicas = Replicas(tmp_path, redis)
        yield replicas
        replicas.close()


def test_calls_of_a_session_go_to_one_server_and_sessions_to_both(replicas):
    for session in SESSIONS:
        replicas.sessions.CreateSession(session_pb2.CreateSessionRequest(session_id=session),
                                        metadata=[("reprise-session", session)], timeout=30)
    homes = set()
    for session in SESSIONS:
        before = replicas.calls("GetSession")
        for _ in range(5):
            replicas.get(session)
        came = [after - b for after, b in zip(replicas.calls("GetSession", sum(before) + 5), before)]
        assert sorted(came) == [0, 5]
        homes.add(came.index(5))
    assert homes == {0, 1}


def test_the_python_client_names_its_session(replicas):
    with Client(f"127.0.0.1:{replicas.port}") as client:
        for i in range(12):
            before = replicas.calls("Generate")
            with client.session(f"c-{i}") as session:
                for _ in range(2):
                    session.generate("Once", max_tokens=1).result()
            came = [after - b for after, b in zip(replicas.calls("Generate", sum(before) + 2), before)]
            assert sorted(came) == [0, 2]


def test_without_the_header_both_servers_answer(replicas):
    replicas.sessions.CreateSession(session_pb2.CreateSessionRequest(session_id="any"), timeout=30)
    for _ in range(40):
        assert replicas.get("any", header=False).name == "sessions/any"
    assert all(replicas.calls("GetSession", 40))


def test_a_session_goes_on_elsewhere_when_its_server_dies(replicas):
    for session in ("whole", "moved"):
        replicas.sessions.CreateSession(session_pb2.CreateSessionRequest(session_id=session),
                                        metadata=[("reprise-session", session)], timeout=30)
    prompts = ["It was late in the evening when", " and then"]
    whole = [replicas.turn("whole", prompt) for prompt in prompts]
    before = replicas.calls("Generate")
    moved = [replicas.turn("moved", prompts[0])]
    home = [after - b for after, b in zip(replicas.calls("Generate", sum(before) + 1), before)].index(1)
    wait_until(lambda: replicas.metric(home, "reprise_leases_held") == 0)  # or it would have to run out first
    replicas.servers[home].kill()
    moved.append(replicas.turn("moved", prompts[1]))  # connect-failure: Envoy repeats it at the other one
    assert moved == whole and all(len(ids) == 12 for ids in whole)
