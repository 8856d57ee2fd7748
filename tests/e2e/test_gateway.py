"""The OpenAI-compatible front: real program, real server, the public `openai` client and plain HTTP."""

import json
import re
import subprocess
import sys
import threading
import time

import openai
import pytest
import requests
from gateway_process import SOURCES, GatewayProcess
from server_process import ROOT, ServerProcess

sys.path[:0] = [str(path) for path in SOURCES]

from reprise_gateway.sampling import seed_of_choice  # noqa: E402

PROMPT = "The rain fell on the roof and"
COLD = {"temperature": 0, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def gateway(shared_server, tmp_path_factory):
    with GatewayProcess(shared_server.address, tmp_path_factory.mktemp("gateway"),
                        "--max-body-bytes", 200_000, "--max-choices", 16) as process:
        yield process


@pytest.fixture(scope="module")
def api(gateway):
    with openai.OpenAI(base_url=gateway.url, api_key="anything", max_retries=0) as api:
        yield api


def post(gateway, path="completions", **body):
    return requests.post(f"{gateway.url}/{path}", json=body, timeout=60)


def test_models_and_health(gateway, api):
    (model,) = api.models.list().data
    assert model.id == "test" and api.models.retrieve("test").id == "test"
    with pytest.raises(openai.NotFoundError) as caught:
        api.models.retrieve("no/such")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    assert requests.get(f"{gateway.root}/health", timeout=10).json() == {"status": "ok"}


def test_a_completion_is_the_servers_answer(api, client):
    expected = client.generate(PROMPT, max_tokens=12, ignore_eos=True).result()
    answer = api.completions.create(model="test", prompt=PROMPT, max_tokens=12, **COLD)
    (choice,) = answer.choices
    assert choice.text == expected.text and choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens == len(client.tokenize(PROMPT)) + 1  # and its beginning
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    cached = [api.completions.create(model="test", prompt=PROMPT * 5 + end, max_tokens=1, **COLD)
              .usage.prompt_tokens_details.cached_tokens for end in ("", " he")]
    assert cached[0] < cached[1]
    ids = client.tokenize(PROMPT, add_bos=True)
    by_ids = api.completions.create(model="test", prompt=ids, max_tokens=12, **COLD)
    assert by_ids.choices[0].text == expected.text
    default = api.completions.create(model="test", prompt=PROMPT, **COLD)
    assert default.usage.completion_tokens == 16


def test_a_stream_is_the_same(api):
    options = dict(model="test", prompt=PROMPT, max_tokens=20, logprobs=1, **COLD)
    whole = api.completions.create(**options)
    chunks = list(api.completions.create(stream=True, stream_options={"include_usage": True},
                                         **options))
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    choices = [c.choices[0] for c in chunks[:-1]]
    assert "".join(c.text for c in choices) == whole.choices[0].text
    assert [t for c in choices if c.logprobs for t in c.logprobs.tokens
           ] == whole.choices[0].logprobs.tokens
    offsets = [o for c in choices if c.logprobs for o in c.logprobs.text_offset]
    assert offsets == sorted(offsets) and offsets[0] == len(PROMPT)
    assert [c.finish_reason for c in choices] == [None] * (len(choices) - 1) + ["length"]
    assert len({c.id for c in chunks}) == 1


def test_scoring_with_echo(api, client):
    answer = api.completions.create(model="test", prompt=PROMPT, max_tokens=0, echo=True,
                                    logprobs=3, temperature=0)
    (choice,) = answer.choices
    score = client.score(PROMPT)
    assert choice.text == PROMPT and choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx([t.logprob for t in score.logprobs])
    assert "".join(choice.logprobs.tokens) == PROMPT
    assert [PROMPT[o:].startswith(t) for o, t in
            zip(choice.logprobs.text_offset, choice.logprobs.tokens)].count(False) == 0
    assert all(len(top) <= 3 for top in choice.logprobs.top_logprobs[1:])
    # A first token that is not the beginning-of-sequence token is in the text.
    ids = client.tokenize(PROMPT)
    answer = api.completions.create(model="test", prompt=ids, max_tokens=2, echo=True, logprobs=1,
                                    **COLD)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert answer.choices[0].text.startswith(PROMPT) and len(logprobs.tokens) == len(ids) + 2
    assert [max(top, key=top.get) for top in logprobs.top_logprobs[-2:]] == logprobs.tokens[-2:]


def test_sampling_fields_arrive(api, client):
    hot = dict(model="test", prompt=PROMPT, max_tokens=10, temperature=1.3)
    text = lambda **fields: api.completions.create(**{**hot, **fields}).choices[0].text
    assert text(seed=5) == text(seed=5) != text(seed=6)
    assert text(seed=-1) == text(seed=2**64 - 1)
    expected = client.generate(PROMPT, max_tokens=10, temperature=1.3, seed=5, top_p=0.5,
                               presence_penalty=1.0, frequency_penalty=0.5).result().text
    assert text(seed=5, top_p=0.5, presence_penalty=1.0, frequency_penalty=0.5) == expected
    forced = client.tokenize("e")[0]
    assert text(logit_bias={str(forced): 1000}, max_tokens=3) == client.detokenize([forced] * 3)
    assert text(seed=1, extra_body={"top_k": 1}) == text(temperature=0)
    whole = text(temperature=0, max_tokens=40)
    stopped = api.completions.create(**{**hot, "temperature": 0, "max_tokens": 40},
                                     stop=[whole[10:13]])
    assert stopped.choices[0].text == whole[:whole.index(whole[10:13])]
    assert stopped.choices[0].finish_reason == "stop"


def test_several_prompts_and_choices(api, client):
    answer = api.completions.create(model="test", prompt=[PROMPT, "Once upon"], n=2, seed=9,
                                    max_tokens=6, temperature=1.0)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    single = [client.generate(p, max_tokens=6, temperature=1.0, seed=s).result()
              for p in (PROMPT, "Once upon") for s in (9, seed_of_choice(9, 1))]
    assert [c.text for c in answer.choices] == [r.text for r in single]
    usages = [r.finished.usage for r in single]
    assert answer.usage.prompt_tokens == usages[0].prompt_tokens + usages[2].prompt_tokens
    assert answer.usage.completion_tokens == sum(u.completion_tokens for u in usages)
    stream = api.completions.create(model="test", prompt=PROMPT, n=3, seed=9, max_tokens=6,
                                    temperature=1.0, stream=True)
    texts = ["", "", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts[:2] == [r.text for r in single[:2]]


def test_seeds_of_choices():
    # The first output of SplitMix64 that was seeded with 0, as its authors give it.
    assert seed_of_choice(0, 0) == 0 and seed_of_choice(0, 1) == 0xE220A8397B1DCDAF


def test_best_of(api, client):
    runs = [client.generate(PROMPT, max_tokens=8, temperature=1.2, seed=seed_of_choice(3, i),
                            logprobs=True).result() for i in range(6)]
    mean = lambda run: sum(t.logprob for t in run.logprobs) / len(run.logprobs)
    best = sorted(runs, key=mean, reverse=True)[:2]
    answer = api.completions.create(model="test", prompt=PROMPT, max_tokens=8, temperature=1.2,
                                    seed=3, n=2, best_of=6)
    assert [c.text for c in answer.choices] == [run.text for run in best]
    assert all(c.logprobs is None for c in answer.choices)


def test_best_of_counts_all_that_was_generated(api):
    ask = lambda **more: api.completions.create(model="test", prompt=PROMPT, max_tokens=8,
                                                temperature=1.2, seed=3,
                                                extra_body={"ignore_eos": True}, **more)
    some, all_of_them = ask(n=2, best_of=6), ask(n=6)
    assert len(some.choices) == 2 and len(all_of_them.choices) == 6
    assert some.usage.completion_tokens == all_of_them.usage.completion_tokens == 48
    assert some.usage.prompt_tokens == all_of_them.usage.prompt_tokens


def test_scored_prompts_of_several_choices(api):
    ask = lambda n: api.completions.create(model="test", prompt=PROMPT, max_tokens=4, seed=3,
                                           echo=True, logprobs=1, n=n)
    (one,), several = ask(1).choices, ask(3).choices
    assert several[0].logprobs.token_logprobs == one.logprobs.token_logprobs
    scored = len(one.logprobs.tokens) - 4
    for choice in several:
        assert choice.logprobs.tokens[:scored] == one.logprobs.tokens[:scored]
        assert choice.logprobs.token_logprobs[:scored] == one.logprobs.token_logprobs[:scored]
        assert "".join(choice.logprobs.tokens) == choice.text


def test_one_prompt_is_computed_once(model_dir, tmp_path):
    """Whatever the number of answers: the server gets one request, and feeds the prompt once."""
    port = tmp_path / "metrics-port"
    flags = ["--prefix-cache-bytes", 0, "--prefix-spill-bytes", 0, "--metrics-listen",
             "127.0.0.1:0", "--metrics-port-file", port]
    with ServerProcess(model_dir, tmp_path, flags) as server, \
            GatewayProcess(server.address, tmp_path / "gateway") as gateway, \
            openai.OpenAI(base_url=gateway.url, api_key="any", max_retries=0) as api:

        def counts():
            text = requests.get(f"http://127.0.0.1:{port.read_text().strip()}/metrics").text
            count = lambda pattern: sum(float(v) for v in re.findall(pattern, text))
            return (count(r'reprise_prompt_tokens_total\{.*source="computed".*\} (\S+)'),
                    count(r'reprise_rpc_requests_total\{.*Generate.*\} (\S+)'))

        complete = lambda **more: api.completions.create(
            model="test", prompt="It was a long night. " * 20, max_tokens=4, **more).usage
        chat = lambda **more: api.chat.completions.create(
            model="test", messages=[{"role": "user", "content": "Night. " * 50}], max_tokens=4,
            **more).usage

        def streamed(**more):
            chunks = list(api.completions.create(
                model="test", prompt="It was a long night. " * 20, max_tokens=4, stream=True,
                stream_options={"include_usage": True}, **more))
            assert {c.index for chunk in chunks for c in chunk.choices} == {0, 1, 2, 3, 4}
            return chunks[-1].usage

        for run in (lambda: complete(n=4), lambda: complete(n=2, best_of=5), lambda: chat(n=3),
                    lambda: streamed(n=5)):
            before = counts()
            usage = run()
            computed, calls = (b - a for a, b in zip(before, counts()))
            assert calls == 1
            # Each answer after the first feeds the last token again, to draw its own from there.
            assert 50 < usage.prompt_tokens <= computed < usage.prompt_tokens + 5


def test_chat(api, client):
    messages = [{"role": "system", "content": "You are old."}, {"role": "user", "content": "Hi!"}]
    rendered = "System: You are old.\nUser: Hi!\nAssistant:"
    expected = client.generate(rendered, max_tokens=30, stop="\n").result()
    answer = api.chat.completions.create(model="test", messages=messages, max_tokens=30,
                                         temperature=0, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == expected.text.lstrip(" ")
    assert answer.usage.prompt_tokens == expected.finished.usage.prompt_tokens
    content = choice.logprobs.content
    assert all(len(t.top_logprobs) == 2 and t.top_logprobs[0].logprob == t.logprob
               for t in content)
    assert bytes(b for t in content for b in t.bytes).startswith(expected.text.encode())
    parts = [{"role": "developer", "content": [{"type": "text", "text": "You are "},
                                               {"type": "text", "text": "old."}]}, messages[1]]
    stream = api.chat.completions.create(model="test", messages=parts, max_completion_tokens=30,
                                         temperature=0, stream=True,
                                         stream_options={"include_usage": True})
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks
                   if c.choices) == choice.message.content
    assert chunks[-1].usage.total_tokens == answer.usage.total_tokens


def test_sessions_and_forks(api, client):
    ask = lambda prompt, **extra: api.completions.create(
        model="test", prompt=prompt, max_tokens=6, temperature=0,
        extra_body={"ignore_eos": True, **extra})
    first = ask(PROMPT, session="gw-trunk")
    assert first.choices[0].session == "sessions/gw-trunk"
    assert client.get_session("gw-trunk").token_count == first.choices[0].session_tokens
    fork = ask("", fork="gw-trunk")
    assert fork.usage.model_extra["restored_tokens"] > 0
    named = ask("", fork="gw-trunk", session="gw-branch")
    trunk = ask("", session="gw-trunk")
    assert fork.choices[0].text == named.choices[0].text == trunk.choices[0].text
    assert named.choices[0].session == "sessions/gw-branch"
    many = api.completions.create(model="test", prompt="", n=3, max_tokens=4, temperature=1.0,
                                  seed=1, extra_body={"fork": "gw-trunk"})
    assert len({c.session for c in many.choices}) == 3
    # A repeat under the same id changes nothing.
    one = ask("And", session="gw-trunk", request_id="r1")
    two = ask("And", session="gw-trunk", request_id="r1")
    assert two.choices[0].already_committed and not one.choices[0].already_committed
    assert one.choices[0].session_version == two.choices[0].session_version
    # A chat in a session sends only what is new, and the state has the rest.
    say = lambda text: api.chat.completions.create(
        model="test", messages=[{"role": "user", "content": text}], max_tokens=20, temperature=0,
        extra_body={"session": "gw-chat"})
    one, two = say("Good evening."), say("Where are you going?")
    assert two.usage.prompt_tokens < one.usage.prompt_tokens + 8
    assert two.usage.model_extra["restored_tokens"] > one.usage.prompt_tokens
    with pytest.raises(openai.ConflictError) as caught:
        ask("", fork="gw-trunk", session="gw-branch")
    assert caught.value.code == "session_exists"


@pytest.mark.parametrize("path, body, param", [
    ("completions", {"prompt": 5}, "prompt"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": [1, "x"]}, "prompt"),
    ("completions", {"prompt": [-1]}, "prompt"),
    ("completions", {"prompt": [2**31 - 1]}, "prompt"),
    ("completions", {"prompt": "x", "n": 0}, "n"),
    ("completions", {"prompt": "x", "n": 17}, "n"),
    ("completions", {"prompt": ["x"] * 9, "n": 2}, "prompt"),
    ("completions", {"prompt": "x", "n": 2, "best_of": 1}, "best_of"),
    ("completions", {"prompt": "x", "best_of": 2, "stream": True}, "best_of"),
    ("completions", {"prompt": "x", "temperature": "hot"}, "temperature"),
    ("completions", {"prompt": "x", "temperature": -1}, "temperature"),
    ("completions", {"prompt": "x", "temperature": 10**400}, "temperature"),
    ("completions", {"prompt": "x", "top_p": 7}, "top_p"),
    ("completions", {"prompt": "x", "max_tokens": 2.5}, "max_tokens"),
    ("completions", {"prompt": "x", "max_tokens": 10**9}, "max_tokens"),
    ("completions", {"prompt": "x", "stop": [1]}, "stop"),
    ("completions", {"prompt": "x", "stop": ["s"] * 17}, "stop"),
    ("completions", {"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias"),
    ("completions", {"prompt": "x", "logit_bias": {"9" * 30: 1}}, "logit_bias"),
    ("completions", {"prompt": "x", "logit_bias": {"0" * 11 + "9" * 30: 1}}, "logit_bias"),
    ("completions", {"prompt": "x", "logit_bias": {"0" * 5000: 1}}, "logit_bias"),
    ("completions", {"prompt": "x", "logit_bias": {"1": 10**400}}, "logit_bias"),
    ("completions", {"prompt": "x", "logprobs": 21}, "logprobs"),
    ("completions", {"prompt": "x", "suffix": "y"}, "suffix"),
    ("completions", {"prompt": "x", "colour": "red"}, "colour"),
    ("completions", {"prompt": "x", "stream_options": {"x": 1}}, "x"),
    ("completions", {"prompt": "x", "session": "a", "n": 2}, "n"),
    ("completions", {"prompt": ["x", "y"], "session": "a"}, "prompt"),
    ("completions", {"prompt": "x", "durability": "maybe"}, "durability"),
    ("chat/completions", {}, "messages"),
    ("chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ("chat/completions", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
     "messages[0].content"),
    ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools"),
    ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 1},
     "top_logprobs"),
])
def test_bad_fields_are_named(gateway, path, body, param):
    answer = post(gateway, path, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param, error
    assert error["type"] == "invalid_request_error" and error["message"]


def test_bad_bodies(gateway):
    send = lambda data, path="completions": requests.post(f"{gateway.url}/{path}", data=data,
                                                          timeout=30)
    for data in [b"", b"[]", b"{", b'{"prompt": NaN}', b"[" * 100_000, b'{"prompt": "\xff"}',
                 b'{"prompt": "\\ud800"}', b'{"prompt": "\\uD83d\\u0061"}']:
        answer = send(data)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"
    assert send(b'{"prompt":"' + b"x" * 300_000 + b'"}').status_code == 413
    assert send(iter([b"x" * 100_000] * 3)).status_code == 413  # no length given
    assert send(b"{}", "nothing").status_code == 404
    answer = requests.get(f"{gateway.url}/completions", timeout=10)
    assert answer.status_code == 405 and answer.json()["error"]["message"]
    smile = send(json.dumps({"prompt": "\U0001f600", "max_tokens": 1}).encode())
    assert smile.status_code == 200, smile.text
    answer = post(gateway, prompt="x", model="other")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def test_a_client_that_goes_away_ends_its_answer(gateway, client):
    """The session's turn is committed as far as it came, long before its end."""
    for i, stream in enumerate([True, False]):
        name = f"gw-gone-{i}"
        client.create_session(name)
        body = {"prompt": PROMPT, "max_tokens": 60000, "session": name, "ignore_eos": True,
                "stream": stream}
        if stream:
            with requests.post(f"{gateway.url}/completions", json=body, stream=True,
                               timeout=60) as answer:
                assert next(answer.iter_lines()).startswith(b"data: {")
        else:
            with pytest.raises(requests.exceptions.ReadTimeout):
                requests.post(f"{gateway.url}/completions", json=body, timeout=1)
        give_up = time.monotonic() + 30
        while client.get_session(name).token_count == 0:
            assert time.monotonic() < give_up
            time.sleep(0.05)
        assert client.get_session(name).token_count < 60000


def test_tokens_are_passed_on_and_refusals_are_openais(tmp_path):
    """A server that wants a token, is full, or says no; as a stand-in, for what the real one says is
    tested elsewhere."""
    import concurrent.futures

    import grpc
    from google.protobuf import any_pb2
    from google.rpc import error_details_pb2, status_pb2
    from reprise_client.v1 import generation_pb2, model_pb2

    seen = []

    def refuse(context):
        token = dict(context.invocation_metadata()).get("authorization")
        seen.append(token)
        if token != "Bearer sesame":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

    def list_models(request, context):
        refuse(context)
        return model_pb2.ListModelsResponse(models=[model_pb2.Model(name="m")])

    def generate(request, context):
        refuse(context)
        details = [error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="reprise.dev")]
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(2500)
        status = status_pb2.Status(code=8, message="full")
        for detail in [*details, retry]:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        yield generation_pb2.GenerateResponse()

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    serialize = lambda message: message.SerializeToString()
    server.add_generic_rpc_handlers([
        grpc.method_handlers_generic_handler("reprise.v1.ModelService", {
            "ListModels": grpc.unary_unary_rpc_method_handler(
                list_models, model_pb2.ListModelsRequest.FromString, serialize)}),
        grpc.method_handlers_generic_handler("reprise.v1.GenerationService", {
            "Generate": grpc.unary_stream_rpc_method_handler(
                generate, generation_pb2.GenerateRequest.FromString, serialize)}),
    ])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with GatewayProcess(f"127.0.0.1:{port}", tmp_path) as gateway:
            api = lambda key: openai.OpenAI(base_url=gateway.url, api_key=key, max_retries=0)
            with pytest.raises(openai.AuthenticationError, match="who are you"):
                api("wrong").models.list()
            assert api("sesame").models.list().data[0].id == "m"
            assert seen == ["Bearer wrong", "Bearer sesame"]
            answer = requests.get(f"{gateway.url}/models", timeout=10)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
            for stream in [False, True]:
                with pytest.raises(openai.RateLimitError) as caught:
                    api("sesame").completions.create(model="m", prompt="x", stream=stream)
                assert caught.value.response.headers["Retry-After"] == "3"
                assert caught.value.code == "rate_limit_exceeded"
    finally:
        server.stop(None)


def test_without_a_server(tmp_path):
    with GatewayProcess("127.0.0.1:9", tmp_path) as gateway:
        assert requests.get(f"{gateway.root}/health", timeout=10).status_code == 503
        answer = post(gateway, model="test", prompt="x")
        assert answer.status_code == 503 and answer.headers["Retry-After"]


def test_flags_are_checked(tmp_path):
    bad = tmp_path / "bad.jinja"
    bad.write_text("{% if %}")
    for flags, word in [(["--tokenizer-config", bad], "line 1"), (["--listen", "x"], "HOST:PORT"),
                        (["--tokenizer-config", tmp_path / "none.json"], "none.json"),
                        (["--server-cert", bad], "belong together")]:
        done = subprocess.run([sys.executable, "-m", "reprise_gateway.main", *map(str, flags)],
                              env={"PYTHONPATH": ":".join(map(str, SOURCES))},
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and word in done.stderr, done.stderr


def test_flags_are_documented():
    table = (ROOT / "docs" / "openai.md").read_text().split("## Flags")[1]
    help_text = subprocess.run([sys.executable, "-m", "reprise_gateway.main", "--help"],
                               env={"PYTHONPATH": ":".join(map(str, SOURCES))}, check=True,
                               capture_output=True, text=True).stdout
    flags = set(re.findall(r"--[a-z-]+", help_text)) - {"--help"}
    documented = {flag for row in re.findall(r"^\| (.*?) \|", table, re.M)
                  for flag in re.findall(r"--[a-z-]+", row)}
    assert flags == documented - {"---"} and len(flags) > 10


def test_types_are_strict():
    done = subprocess.run([sys.executable, "-m", "mypy", "-p", "reprise_gateway"],
                          cwd=ROOT / "clients" / "gateway", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_many_at_once(api, client):
    expected = client.generate(PROMPT, max_tokens=8, ignore_eos=True).result().text
    texts = [None] * 8

    def ask(i):
        texts[i] = api.completions.create(model="test", prompt=PROMPT, max_tokens=8,
                                          **COLD).choices[0].text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [expected] * 8
