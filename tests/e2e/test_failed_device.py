"""A server whose device fails in the middle of a turn: it says so, and another one on the same Redis goes on
from what was committed, to the bit."""

import subprocess
import urllib.error
import urllib.request

import pytest
import reprise_client
from redis_process import RedisProcess
from reprise_client import Client, Retry
from reprise_client.affinity import HashRing
from server_process import BUILD

TOOL = BUILD / "tests" / "state_store" / "redis" / "store_fault_tool"
PROMPT = "It was a bright cold day in April, and the clocks were striking"
FIRST, SECOND, REST = 8, 40, 10
FAILS_AT = FIRST + 25  # of the steps of that server: one for each token, the first with the prompt
EVERY = {"durability": "every_n_tokens", "checkpoint_tokens": 8}


def page(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.skipif(not TOOL.exists(), reason="a build without fault points")
@pytest.mark.parametrize("durability", [{}, EVERY], ids=["async", "every_n_tokens"])
def test_its_sessions_go_on_elsewhere(make_server, cli_for, tmp_path, monkeypatch, durability):
    with RedisProcess(tmp_path / "redis") as redis:
        other = make_server("other", store=redis.url)
        port_file = tmp_path / "metrics_port"
        monkeypatch.setenv("REPRISE_FAULT_POINT", f"device.step.end:{FAILS_AT}")
        failing = make_server("failing", "--metrics-listen", "127.0.0.1:0", "--metrics-port-file",
                              port_file, store=redis.url)
        monkeypatch.delenv("REPRISE_FAULT_POINT")
        both = [failing.address, other.address]
        session = next(name for name in (f"s-{i}" for i in range(100))
                       if HashRing(both).order(name)[0] == failing.address)
        with Client(both, retry=Retry(seconds=60)) as client, Client(other.address) as healthy:
            whole = healthy.generate(PROMPT, max_tokens=FIRST + SECOND + REST, ignore_eos=True).result().ids
            client.create_session(session)
            turn = dict(session=session, ignore_eos=True)
            # Acknowledged; it may still wait to be written when the device fails.
            first = client.generate(PROMPT, max_tokens=FIRST, **turn).result()
            assert first.ids == whole[:FIRST]
            port = int(port_file.read_text())
            assert page(port, "/healthz")[0] == page(port, "/readyz")[0] == 200
            assert "HAS FAILED" not in failing.log.read_text()

            second = client.generate(max_tokens=SECOND, request_id="second", **durability, **turn).result()
            assert second.ids == whole[FIRST:FIRST + SECOND]
            assert "HAS FAILED" in failing.log.read_text()
            usage = second.finished.usage
            assert (usage.computed_tokens < SECOND) == bool(durability), usage
            if not durability:  # each checkpoint is a version, too
                assert second.finished.commit.version == first.finished.commit.version + 1

            for path in ("/healthz", "/readyz"):
                code, body = page(port, path)
                assert code == 503 and "the device of model test has failed" in body
            assert 'reprise_device_failed{model_name="test"} 1' in page(port, "/metrics")[1]
            health = cli_for(failing).run("health")
            assert health.returncode != 0, health.stdout
            with Client(failing.address, retry=Retry(0)) as alone:
                with pytest.raises(reprise_client.Unavailable) as caught:
                    alone.generate(max_tokens=1, **turn).result()
                assert caught.value.reason == "DEVICE_FAILED"
                # What needs no device is answered.
                assert alone.get_session(session).version >= 2

            third = client.generate(max_tokens=REST, **turn).result()
            assert third.ids == whole[FIRST + SECOND:]
        assert failing.stop() == 3
        checked = subprocess.run([str(BUILD / "clients" / "reprise"), "admin", "verify", redis.url],
                                 capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
