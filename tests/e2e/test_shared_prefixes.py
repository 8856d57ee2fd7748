"""Two servers on one Redis: a prompt that one computed is not computed again by the other."""

import struct
import urllib.request

import grpc
import pytest
from redis_process import redis  # noqa: F401
from reprise_client.v1 import generation_pb2 as pb
from reprise_client.v1 import generation_pb2_grpc
from server_process import ServerProcess
from waiting import until

PROMPT = [5 + 7 * i % 200 for i in range(700)]
PREFIXES = "reprise:1:p:*"


class Client:
    def __init__(self, server, metrics):
        self._metrics = metrics
        self._channel = grpc.insecure_channel(server.address)
        self._stub = generation_pb2_grpc.GenerationServiceStub(self._channel)

    def close(self):
        self._channel.close()

    def sample(self, name):
        """A value of /metrics."""
        url = f"http://127.0.0.1:{int(self._metrics.read_text())}/metrics"
        with urllib.request.urlopen(url, timeout=30) as page:
            lines = page.read().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name + " "))

    def call(self, ids, **fields):
        """Token ids, the bits of their log-probabilities, and usage."""
        request = pb.GenerateRequest(**fields)
        request.tokens.ids[:] = ids
        request.stop.max_tokens = 12
        request.stop.ignore_eos = True
        request.output.logprobs = True
        tokens, bits, finished = [], [], None
        for response in self._stub.Generate(request, timeout=120):
            tokens += response.tokens.ids
            bits += [struct.pack("<f", entry.logprob) for entry in response.tokens.logprobs]
            if response.HasField("finished"):
                finished = response.finished
        assert len(tokens) == len(bits) == 12
        return tokens, bits, finished.usage


@pytest.fixture
def replicas(model_dir, tmp_path, redis):
    ports = [tmp_path / f"metrics-{name}" for name in "ab"]
    servers = [ServerProcess(model_dir, tmp_path / name,
                             ["--prefix-share", "on", "--prefix-share-timeout-seconds", "30",
                              "--metrics-listen", "127.0.0.1:0", "--metrics-port-file", port],
                             redis.url) for name, port in zip("ab", ports)]
    clients = [Client(server, port) for server, port in zip(servers, ports)]
    yield clients
    for client in clients:
        client.close()
    for server in servers:
        server.stop()


def share_prompt(replicas, redis):
    """Replica a computes PROMPT, and its state is in Redis."""
    replicas[0].call(PROMPT)
    until(lambda: redis.do("KEYS", PREFIXES) and redis.do("KEYS", "reprise:1:a:*"))


def test_the_second_replica_goes_on_from_what_the_first_computed(replicas, redis):
    a, b = replicas
    share_prompt(replicas, redis)
    longer = PROMPT + [9, 8, 7]
    tokens, bits, usage = b.call(longer)
    assert usage.cached_tokens == len(PROMPT)
    assert usage.computed_tokens == 3 + 11
    assert a.sample('reprise_prefix_share_events_total{event="written"}') > 0
    assert b.sample('reprise_prefix_spill_hits_total{tier="store"}') == 1
    assert b.sample('reprise_prefix_spill_hits_total{tier="host"}') == 0
    cold_tokens, cold_bits, cold = b.call(longer, no_prefix_cache=True)
    assert cold.cached_tokens == 0 and cold.computed_tokens == len(longer) + 11
    assert (tokens, bits) == (cold_tokens, cold_bits)
    # The first one knows nothing of the second's longer prompt but what is in Redis or its own.
    assert a.call(longer)[:2] == (tokens, bits)


def test_damage_in_redis_is_computed_around(replicas, redis):
    share_prompt(replicas, redis)
    for key in redis.do("KEYS", PREFIXES):
        size = redis.do("STRLEN", key)
        byte = redis.do("GETRANGE", key, str(size // 2), str(size // 2))
        redis.do("SETRANGE", key, str(size // 2), bytes([byte[0] ^ 1]))
    longer = PROMPT + [9, 8, 7]
    tokens, bits, usage = replicas[1].call(longer)
    assert usage.cached_tokens == 0
    assert (tokens, bits) == replicas[1].call(longer, no_prefix_cache=True)[:2]


def test_without_redis_prompts_are_computed(replicas, redis):
    share_prompt(replicas, redis)
    redis.kill()
    longer = PROMPT + [9, 8, 7]
    tokens, bits, usage = replicas[1].call(longer)
    assert usage.cached_tokens == 0
    assert (tokens, bits) == replicas[0].call(longer, no_prefix_cache=True)[:2]
