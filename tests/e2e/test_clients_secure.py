"""Python client and gateway against a server with TLS, tenants' tokens and quotas."""

import asyncio
import json
import os
import signal
import subprocess

import openai
import pytest
import reprise_client
import requests
from gateway_process import GatewayProcess
from reprise_client import AsyncClient, Client, Retry, Tls
from server_process import BUILD
from waiting import until

PROMPT = "The rain fell on the roof and"


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def token(folder, tenant):
    done = subprocess.run(
        [str(BUILD / "service" / "reprised"), "token", "--id", f"{tenant}-1", "--tenant", tenant,
         "--file", str(folder / "tokens")], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def secure(make_server, tmp_path):
    """A server of two tenants, of whom "small" may ask twice a minute or so: (server, tls, tokens)."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(tmp_path, "req", "-x509", *key, "-days", "2", "-subj", "/CN=reprise", "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem")
    tokens = {tenant: token(tmp_path, tenant) for tenant in ["acme", "small"]}
    quota = {"acme": {}, "small": {"tokens_per_minute": 60}}
    (tmp_path / "tenants.json").write_text(json.dumps({"unlisted": "refuse", "tenants": quota}))
    server = make_server("secure", "--profile", "production", "--tls-cert", tmp_path / "cert.pem",
                         "--tls-key", tmp_path / "key.pem", "--token-file", tmp_path / "tokens",
                         "--tenants-file", tmp_path / "tenants.json")
    return server, Tls(ca=str(tmp_path / "cert.pem")), tokens


def test_both_clients(secure):
    server, tls, tokens = secure
    with Client(server.address, tls=tls, token=tokens["acme"]) as client:
        client.create_session("s")
        answer = client.generate(PROMPT, session="s", max_tokens=3, resumable=True).result()
        assert answer.ids
        with client.with_token(tokens["small"]) as other:
            with pytest.raises(reprise_client.NotFound):
                other.get_session("s")
        assert client.get_session("s").token_count == answer.finished.commit.token_count
    for wrong in ["", "nonsense"]:
        with Client(server.address, tls=tls, token=wrong or None) as client:
            with pytest.raises(reprise_client.Unauthenticated) as caught:
                client.list_models()
            assert caught.value.reason
    with Client(server.address, retry=Retry(0)) as plain:
        with pytest.raises(reprise_client.Unavailable):
            plain.list_models()

    async def work():
        async with AsyncClient(server.address, tls=tls, token=lambda: tokens["acme"]) as client:
            return await client.get_session("s")

    assert asyncio.run(work()).name == "sessions/s"
    log = server.log.read_text()
    for secret in [*(token.rsplit("_", 1)[1] for token in tokens.values()), "nonsense", PROMPT]:
        assert secret not in log


@pytest.mark.parametrize("flags, named", [
    (["--token-file", "/nowhere"], "--token-file"),
    (["--tenants-file", "/nowhere"], "--tenants-file"),
    (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "--tls-cert"),
])
def test_files_that_cannot_be_used_are_said_before_a_model_is_looked_for(flags, named):
    done = subprocess.run([str(BUILD / "service" / "reprised"), "--model", "m=/no/model", *flags],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert named in done.stderr and "/no/model" not in done.stderr


def test_the_command_line(secure):
    server, tls, tokens = secure

    def run(*arguments, token="", **environment):
        return subprocess.run([str(BUILD / "clients" / "reprise"), "--server", server.address, *arguments],
                              env={**os.environ, "REPRISE_TOKEN": token, **environment}, capture_output=True,
                              text=True, timeout=60)
    done = run("--ca", tls.ca, "generate", PROMPT, "-n", "3", "--session", "of-acme", token=tokens["acme"])
    assert done.returncode == 5, done.stderr  # there is none yet
    assert run("sessions", "create", "of-acme", token=tokens["acme"], REPRISE_CA=tls.ca).returncode == 0
    done = run("--ca", tls.ca, "generate", PROMPT, "-n", "3", "--session", "of-acme", token=tokens["acme"])
    assert done.returncode == 0 and done.stdout, done.stderr
    assert run("--ca", tls.ca, "sessions", "show", "of-acme", token=tokens["small"]).returncode == 5
    assert run("--ca", tls.ca, "sessions", "list").returncode == 4  # nobody
    assert run("--ca", tls.ca, "--server-name", "other", "health").returncode == 3
    assert run("sessions", "list", token=tokens["acme"]).returncode == 3  # no TLS
    assert run("--ca", tls.ca, "health").returncode == 0


def test_sighup_reads_files_again_though_none_has_changed(secure):
    server, _, _ = secure
    read = lambda what: server.log.read_text().count(f"reload: {what} are in force")
    for times in (0, 1, 2):
        until(lambda: read("certificates") == read("tokens, keys and quotas") == times)
        os.kill(server.pid, signal.SIGHUP)


def test_certificates_of_clients(make_server, tmp_path):
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for name in ["server", "ours", "strangers"]:
        openssl(tmp_path, "req", "-x509", *key, "-subj", f"/CN={name}", "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", f"{name}.key", "-out",
                f"{name}.pem")
    file = lambda name: str(tmp_path / name)
    server = make_server("mutual", "--tls-cert", file("server.pem"), "--tls-key",
                         file("server.key"), "--tls-client-ca", file("ours.pem"),
                         "--certificate-tenant", "acme")
    shown = lambda name: Tls(ca=file("server.pem"), certificate=file(f"{name}.pem"),
                             key=file(f"{name}.key"))
    with Client(server.address, tls=shown("ours")) as client:
        assert client.generate(PROMPT, max_tokens=2).result().ids
    for wrong in [shown("strangers"), Tls(ca=file("server.pem"))]:
        with Client(server.address, tls=wrong, retry=Retry(0)) as client:
            with pytest.raises(reprise_client.Unavailable):
                client.list_models()
    with GatewayProcess(server.address, tmp_path / "gateway", "--server-ca", file("server.pem"),
                        "--server-cert", file("ours.pem"), "--server-key",
                        file("ours.key")) as gateway:
        assert requests.get(f"{gateway.url}/models", timeout=30).json()["data"][0]["id"] == "test"


def test_the_gateway_passes_on_who_calls(secure, tmp_path, monkeypatch):
    server, tls, tokens = secure
    # Whoever started it may have one of his own there, which is nobody else's.
    monkeypatch.setenv("REPRISE_TOKEN", tokens["acme"])
    with GatewayProcess(server.address, tmp_path / "gateway", "--server-ca", tls.ca) as gateway:
        assert requests.get(f"{gateway.root}/health", timeout=10).status_code == 200
        assert requests.get(f"{gateway.url}/models", timeout=10).status_code == 401
        api = lambda key: openai.OpenAI(base_url=gateway.url, api_key=key, max_retries=0)
        ask = lambda key, **extra: api(key).completions.create(
            model="test", prompt=PROMPT, max_tokens=40, temperature=0,
            extra_body={"ignore_eos": True, **extra})
        assert ask(tokens["acme"], session="s").choices[0].session_version > 1
        with pytest.raises(openai.NotFoundError):
            ask(tokens["small"], fork="s")
        with pytest.raises(openai.AuthenticationError):
            ask("nonsense")
        with pytest.raises(openai.RateLimitError) as caught:
            for _ in range(3):
                ask(tokens["small"])
        assert int(caught.value.response.headers["Retry-After"]) >= 1
        assert caught.value.code == "quota_exceeded"
        assert ask(tokens["acme"]).choices[0].text
