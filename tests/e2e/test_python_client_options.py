"""How the Python client reaches its servers, and how it is built."""

import concurrent.futures
import importlib
import json
import pathlib
import subprocess
import sys
import zipfile

import grpc
import pytest
import reprise_client
from reprise_client import Client, Retry, Tls, methods, options
from reprise_client.affinity import Chooser, HashRing
from reprise_client.v1 import model_pb2

CLIENT = pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """ca.pem, and server and client pairs that it signed; the server's is for "reprise.test"."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca",
            "-days", "2")
    for name in ["server", "client"]:
        (folder / "names").write_text("subjectAltName=DNS:reprise.test")
        openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj",
                f"/CN={name}")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "names")
    return folder


@pytest.fixture
def tls_server(certificates):
    """A server that only knows ListModels and keeps each call's metadata. `serve(mutual)` starts
    it."""
    calls = []

    def list_models(request, context):
        calls.append(dict(context.invocation_metadata()))
        return model_pb2.ListModelsResponse(models=[model_pb2.Model(name="far away")])

    handler = grpc.unary_unary_rpc_method_handler(
        list_models, request_deserializer=model_pb2.ListModelsRequest.FromString,
        response_serializer=model_pb2.ListModelsResponse.SerializeToString)
    servers = []

    def serve(mutual):
        read = lambda name: (certificates / name).read_bytes()
        credentials = grpc.ssl_server_credentials([(read("server.key"), read("server.pem"))],
                                                  read("ca.pem") if mutual else None, mutual)
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers([
            grpc.method_handlers_generic_handler("reprise.v1.ModelService", {"ListModels": handler})
        ])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}", calls

    yield serve
    for server in servers:
        server.stop(None)


def test_tls(tls_server, certificates):
    address, calls = tls_server(mutual=False)
    trust = dict(ca=str(certificates / "ca.pem"), server_name="reprise.test")
    tokens = iter(["one", "two"])
    with Client(address, tls=Tls(**trust), token=lambda: next(tokens), retry=Retry(0)) as client:
        assert client.list_models()[0].name == "far away"
        client.list_models()
    assert [call["authorization"] for call in calls] == ["Bearer one", "Bearer two"]
    for wrong in [Tls(), Tls(ca=trust["ca"], server_name="other.test")]:
        with Client(address, tls=wrong, retry=Retry(0)) as client:
            with pytest.raises(reprise_client.Unavailable):
                client.list_models()
    with pytest.raises(ValueError, match="belong together"):
        Client(address, tls=Tls(certificate="x"))
    with pytest.raises(FileNotFoundError):
        Client(address, tls=Tls(ca="/nonexistent"))


def test_mutual_tls(tls_server, certificates):
    address, _ = tls_server(mutual=True)
    trust = dict(ca=str(certificates / "ca.pem"), server_name="reprise.test")
    pair = dict(certificate=str(certificates / "client.pem"), key=str(certificates / "client.key"))
    with Client(address, tls=Tls(**trust, **pair)) as client:
        assert client.list_models()
    with Client(address, tls=Tls(**trust), retry=Retry(0)) as client:
        with pytest.raises(reprise_client.Unavailable):
            client.list_models()


def test_a_token_does_not_leave_the_machine_in_the_open(monkeypatch, shared_server):
    for address in ["10.0.0.1:1", "example.com:1", "[2001:db8::1]:1"]:
        with pytest.raises(ValueError, match="unencrypted"):
            Client(["127.0.0.1:1", address], token="secret")
        Client(address, token="secret", allow_plaintext_token=True).close()
        Client(address, token="secret", tls=Tls()).close()
    for address in ["localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/socket"]:
        Client(address, token="secret").close()
    monkeypatch.setenv("REPRISE_TOKEN", "secret")
    with pytest.raises(ValueError, match="unencrypted"):
        Client("example.com:1")
    Client("example.com:1", token="").close()  # none, whatever the environment says
    with Client(shared_server.address) as client:
        assert client.list_models()


def test_addresses(monkeypatch, shared_server):
    assert options.addresses("a:1, b:2,a:1") == ["a:1", "b:2"] == options.addresses(["a:1", "b:2"])
    monkeypatch.delenv("REPRISE_SERVER", raising=False)
    assert options.addresses("") == [options.DEFAULT_ADDRESS]
    with pytest.raises(ValueError):
        options.addresses(",")
    monkeypatch.setenv("REPRISE_SERVER", shared_server.address)
    with Client() as client:
        assert client.list_models()


def test_keepalive_is_one_that_servers_allow():
    with pytest.raises(ValueError, match="at least 10"):
        Client("a:1", keepalive_seconds=5)
    assert ("grpc.keepalive_time_ms", 30000) in options.channel_options(True, 1, 30.0, None)
    assert "keepalive" not in str(options.channel_options(True, 1, 0.0, None))


def test_methods_are_those_of_the_contract():
    served = {}
    for module in ["generation", "session", "model"]:
        descriptor = importlib.import_module(f"reprise_client.v1.{module}_pb2").DESCRIPTOR
        for service in descriptor.services_by_name.values():
            for method in service.methods:
                served[f"/{service.full_name}/{method.name}"] = method
    ours = {m.path: m for m in vars(methods).values() if isinstance(m, methods.Method)}
    assert set(ours) == set(served)
    for path, method in ours.items():
        assert method.request.DESCRIPTOR.full_name == served[path].input_type.full_name
        assert method.response.DESCRIPTOR.full_name == served[path].output_type.full_name
    assert set(methods.REPEATABLE) == {m.path for m in ours.values() if m.repeatable}
    config = json.loads(dict(options.channel_options(True, 1, 0.0, None))["grpc.service_config"])
    named = {f"/{n['service']}/{n['method']}" for n in config["methodConfig"][0]["name"]}
    assert named == set(methods.REPEATABLE)
    assert "methodConfig" not in options.service_config(False, 1)


def test_consistent_hashing():
    servers = [f"replica-{i}:7420" for i in range(5)]
    keys = [f"session-{i}" for i in range(2000)]
    ring, smaller = HashRing(servers), HashRing(servers[:-1])
    first = {key: ring.order(key)[0] for key in keys}
    assert all(sorted(ring.order(key)) == sorted(servers) for key in keys[:50])
    for server in servers:  # a fair share each
        assert 0.5 < list(first.values()).count(server) * len(servers) / len(keys) < 1.6
    # Who was not on the lost replica stays; its keys go where they would have fallen back to.
    for key in keys:
        lost = first[key] == servers[-1]
        assert smaller.order(key)[0] == (ring.order(key)[1] if lost else first[key])
    assert HashRing(list(reversed(servers))).order("x") == ring.order("x")


def test_who_does_not_answer_is_asked_last():
    now = [0.0]
    chooser = Chooser(["a", "b", "c"], avoid_seconds=5, now=lambda: now[0])
    assert sorted(chooser.order("")[0] for _ in range(6)) == ["a", "a", "b", "b", "c", "c"]
    order = chooser.order("key")
    chooser.avoid(order[0])
    assert chooser.order("key") == order[1:] + order[:1]
    now[0] = 6.0
    assert chooser.order("key") == order
    chooser.avoid(order[0])
    chooser.answered(order[0])
    assert chooser.order("key") == order


def test_calls_go_round_a_dead_replica(shared_server):
    with Client(["127.0.0.1:9", shared_server.address]) as client:
        for i in range(8):  # both kinds of keys, and none
            client.create_session(f"py-round-{i}")
            assert client.generate("x", session=f"py-round-{i}", max_tokens=1).result().ids
        for _ in range(4):
            assert client.list_models()


def test_types_are_strict():
    done = subprocess.run([sys.executable, "-m", "mypy", "-p", "reprise_client"], cwd=CLIENT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_wheel_is_complete(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path),
         str(CLIENT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    source = CLIENT / "src"
    expected = {str(p.relative_to(source)) for p in source.rglob("*")
                if p.suffix in (".py", ".pyi", ".typed") and "egg-info" not in str(p)}
    assert expected <= {str(p.relative_to(tmp_path / "unpacked"))
                        for p in (tmp_path / "unpacked").rglob("*") if p.is_file()}
    # Used from there alone.
    program = "import reprise_client as r; print(r.__file__, r.Client('127.0.0.1:9'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "unpacked")})
    assert done.returncode == 0 and str(tmp_path / "unpacked") in done.stdout, done.stderr
