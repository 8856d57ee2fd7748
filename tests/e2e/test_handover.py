"""A server that ends while it works: another one on the same Redis goes on as if nothing had happened.
And what a client hears from a server that cannot take its request."""

import re
import threading
import urllib.request

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from reprise_client.v1 import generation_pb2 as pb
from reprise_client.v1 import generation_pb2_grpc, session_pb2, session_pb2_grpc
from waiting import until

PROMPT = "It was a bright cold day in April, and the clocks were striking"
PATIENCE = 120


class Stubs:
    """The services of one server, as they are on the wire."""

    def __init__(self, server):
        self.channel = grpc.insecure_channel(server.address)
        self.generation = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(self.channel)

    def create(self, session):
        self.sessions.CreateSession(session_pb2.CreateSessionRequest(session_id=session))

    def commit_of(self, session, request_id):
        """What became of the turn; None when nothing of it is there."""
        try:
            return self.sessions.GetCommit(session_pb2.GetCommitRequest(
                session=f"sessions/{session}", request_id=request_id))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
            return None


@pytest.fixture
def stubs():
    opened = []

    def connect(server):
        opened.append(Stubs(server))
        return opened[-1]

    yield connect
    for one in opened:
        one.channel.close()


def turn_request(tokens, prompt=PROMPT, session="", seed=None, **fields):
    request = pb.GenerateRequest(**fields)
    if session:
        request.session = f"sessions/{session}"
    if isinstance(prompt, str):
        request.text = prompt
    elif prompt is not None:
        request.tokens.ids.extend(prompt)
    request.stop.max_tokens = tokens
    request.stop.ignore_eos = True
    request.output.logprobs = True
    if seed is not None:
        request.sampling.temperature = 0.9
        request.sampling.seed = seed
    return request


class Call(threading.Thread):
    """A call that runs beside the test: its tokens so far, their log-probabilities, and its end."""

    def __init__(self, stubs, request, **options):
        super().__init__(daemon=True)
        self.ids, self.logprobs, self.finished, self.error = [], [], None, None
        self.stream = stubs.generation.Generate(request, **options)
        self.start()

    def run(self):
        try:
            for response in self.stream:
                self.ids.extend(response.tokens.ids)
                self.logprobs.extend(t.logprob for t in response.tokens.logprobs)
                if response.HasField("finished"):
                    self.finished = response.finished
        except grpc.RpcError as error:
            self.error = error

    def ended(self):
        self.join(PATIENCE)
        assert not self.is_alive()
        return self

    def succeeded(self):
        assert self.ended().error is None, self.error
        return self

    def details(self):
        """ErrorInfo and RetryInfo of the failed call; the latter may be None."""
        assert self.ended().error is not None
        trailing = dict(self.error.trailing_metadata() or ())
        status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
        found = []
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo):
            message = kind()
            found.append(message if any(d.Unpack(message) for d in status.details) else None)
        return found


def undisturbed(stubs, tokens, **options):
    return Call(stubs, turn_request(tokens, no_prefix_cache=True, **options)).succeeded()


def test_running_turns_are_handed_over(redis, make_server, stubs):
    first = make_server("a", "--drain-seconds", "0.3", store=redis.url)
    one, two = stubs(first), stubs(make_server("b", store=redis.url))
    names = [f"s{i}" for i in range(3)]
    for name in names:
        one.create(name)
    calls = [Call(one, turn_request(60000, session=name, seed=i, request_id="turn"))
             for i, name in enumerate(names)]
    for call in calls:
        until(lambda: call.ids, PATIENCE)
    first.drain()
    for i, (name, call) in enumerate(zip(names, calls)):
        call.succeeded()
        assert call.finished.reason == pb.FINISH_REASON_DRAINED
        done = len(call.ids)
        assert done == call.finished.usage.completion_tokens < 60000
        # A repeat of the turn is not computed again, wherever it is asked for.
        repeat = Call(two, turn_request(60000, session=name, seed=i, request_id="turn")).succeeded()
        assert not repeat.ids and repeat.finished.commit.already_committed
        more = Call(two, turn_request(20, prompt=None, session=name, seed=i)).succeeded()
        whole = undisturbed(two, done + 20, seed=i)
        assert call.ids + more.ids == whole.ids
        assert call.logprobs + more.logprobs == whole.logprobs
        assert more.finished.commit.token_count == \
            call.finished.usage.prompt_tokens + done + 20
    assert first.stop() == 0


@pytest.mark.parametrize("fields", [
    {"durability": pb.DURABILITY_EVERY_N_TOKENS, "checkpoint_tokens": 512},
    {"keep_partial": True},
], ids=["every_n_tokens", "keep_partial"])
def test_a_long_prompt_is_handed_over(redis, make_server, stubs, tmp_path, fields):
    port = tmp_path / "metrics-port"
    first = make_server("a", "--drain-seconds", "0", "--metrics-listen", "127.0.0.1:0",
                        "--metrics-port-file", port, store=redis.url)

    def steps():
        with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().strip()}/metrics") as page:
            text = page.read().decode()
        return float(re.search(r"^reprise_steps_total\{.*\} (.*)$", text, re.M).group(1))

    one, two = stubs(first), stubs(make_server("b", store=redis.url))
    one.create("s")
    prompt = [7 + i * i % 400 for i in range(60000)]
    request = turn_request(30, prompt=prompt, session="s", seed=3, request_id="turn", **fields)
    call = Call(one, request)
    if "durability" in fields:
        until(lambda: two.commit_of("s", "turn"), PATIENCE)  # its first checkpoint
    else:
        until(lambda: steps() >= 3, PATIENCE)
    first.drain()
    info, retry = call.details()
    assert call.error.code() == grpc.StatusCode.UNAVAILABLE and info.reason == "DRAINING"
    assert retry is not None and not call.ids
    assert first.stop() == 0

    turn = two.commit_of("s", "turn")
    assert turn.unfinished and 0 < turn.prompt_tokens_done < len(prompt)
    assert turn.token_count == turn.committed_tokens == turn.prompt_tokens_done
    again = Call(two, request).succeeded()
    usage = again.finished.usage
    assert usage.restored_tokens == turn.prompt_tokens_done - 1
    assert usage.restored_tokens + usage.computed_tokens == len(prompt) + 29
    assert again.finished.commit.token_count == len(prompt) + 30
    whole = undisturbed(two, 30, prompt=prompt, seed=3)
    assert again.ids == whole.ids and again.logprobs == whole.logprobs


def test_a_deadline_that_cannot_be_met_is_refused_at_once(make_server, stubs):
    one = stubs(make_server("a"))
    # The speed is measured first.
    Call(one, turn_request(1, prompt=[9] * 4096, no_prefix_cache=True)).succeeded()
    call = Call(one, turn_request(1, prompt=[9] * 1_000_000, no_prefix_cache=True), timeout=15)
    info, _ = call.details()  # gRPC's own deadline would bring none
    assert call.error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert info.reason == "DEADLINE_EXCEEDED"
    assert info.metadata["scheduler_error"] == "DEADLINE_UNREACHABLE"


def test_a_full_server_says_when_to_come_back(make_server, stubs):
    one = stubs(make_server("a", "--slots", "1", "--max-queued", "2", "--max-queued-per-tenant", "1"))
    running = Call(one, turn_request(60000))
    until(lambda: running.ids, PATIENCE)
    waiting = Call(one, turn_request(3))

    def refused():
        call = Call(one, turn_request(3), timeout=1)
        call.ended()
        return call if call.error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED else None

    call = until(refused, PATIENCE)  # the other one is in the queue then
    info, retry = call.details()
    assert info.reason == "QUEUE_FULL"
    assert info.metadata["scheduler_error"] == "TENANT_QUEUE_FULL"
    delay = retry.retry_delay.seconds + retry.retry_delay.nanos * 1e-9
    assert 0.1 <= delay <= 30
    running.stream.cancel()
    assert waiting.succeeded().ids == undisturbed(one, 3).ids
