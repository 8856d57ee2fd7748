"""The Python client against a real server."""

import io
import threading
import time

import grpc
import pytest
import reprise_client
from reprise_client import names

PROMPT = "The rain fell on the roof and"
GREEDY = {"ignore_eos": True}


def test_names():
    assert names.session("x") == names.session("sessions/x") == "sessions/x"
    assert names.session("") == "" and names.session_id("sessions/x") == "x"
    for text in ["x/y", "sessions/x/y", "x/snapshots/y", "sessions/x/snapshots/y"]:
        assert names.snapshot(text) == names.session_or_snapshot(text) == "sessions/x/snapshots/y"
    assert names.snapshot("y", "x") == names.snapshot("y", "sessions/x") == "sessions/x/snapshots/y"
    assert names.session_or_snapshot("x") == "sessions/x"


def test_models_and_tokens(client):
    (model,) = client.list_models()
    assert client.get_model() == client.get_model(model.name)
    ids = client.tokenize("Hello, world", add_bos=True)
    assert ids[0] == model.bos_token
    assert client.detokenize(ids[1:]) == "Hello, world"


def test_events_texts_and_result_tell_the_same(client):
    generation = client.generate(PROMPT, max_tokens=20, **GREEDY)
    ids = [i for tokens in generation for i in tokens.ids]
    assert generation.finished.usage.completion_tokens == 20 == len(ids)
    result = client.generate(PROMPT, max_tokens=20, **GREEDY).result()
    assert result.ids == ids
    assert "".join(client.generate(PROMPT, max_tokens=20, **GREEDY).texts()) == result.text


def test_token_prompts(client):
    ids = client.tokenize(PROMPT, add_bos=True)
    assert (client.generate(ids, max_tokens=8, **GREEDY).result().ids ==
            client.generate(PROMPT, max_tokens=8, **GREEDY).result().ids)


def test_sampling_flags_arrive(client):
    hot = dict(max_tokens=16, temperature=1.5, **GREEDY)
    one = client.generate(PROMPT, seed=1, **hot).result()
    assert client.generate(PROMPT, seed=1, **hot).result().ids == one.ids
    assert client.generate(PROMPT, seed=2, **hot).result().ids != one.ids
    assert client.generate(PROMPT, seed=1, top_k=1, **hot).result().ids == client.generate(
        PROMPT, max_tokens=16, **GREEDY).result().ids
    forced = client.generate(PROMPT, logit_bias={5: 1000.0}, max_tokens=3, **GREEDY).result()
    assert forced.ids == [5, 5, 5]
    stopped = client.generate(PROMPT, max_tokens=16, stop_tokens=one.ids[4:5], temperature=1.5,
                              seed=1, ignore_eos=True).result()
    assert len(stopped.ids) <= 5


def test_logprobs(client):
    result = client.generate(PROMPT, max_tokens=5, top_logprobs=3, **GREEDY).result()
    assert [t.id for t in result.logprobs] == result.ids
    assert all(t.top[0].id == t.id for t in result.logprobs)  # greedy takes the best


def test_score(client):
    score = client.score(PROMPT)
    assert score.tokens == len(client.tokenize(PROMPT)) and score.bytes == len(PROMPT)
    assert score.bits_per_byte > 0 and score.perplexity > 1
    # The probability of a text is that of its beginning times that of the rest.
    ids = client.tokenize(PROMPT, add_bos=True)
    client.create_session("py-score")
    parts = [client.score(ids[:4], session="py-score"), client.score(ids[4:], session="py-score")]
    assert sum(p.tokens for p in parts) == score.tokens
    assert sum(p.bits for p in parts) == pytest.approx(score.bits, rel=1e-6)


def test_session_life(client):
    session = client.create_session("py-life", labels={"a": "1"}, ttl=3600)
    assert session.name == "sessions/py-life" and session.HasField("expire_time")
    turn = client.generate(PROMPT, session="py-life", max_tokens=5, **GREEDY).result()
    assert turn.finished.commit.token_count == client.get_session("py-life").token_count
    assert client.update_session("py-life", labels={"b": "2"}).labels == {"b": "2"}
    assert not client.update_session("py-life", forever=True).HasField("expire_time")
    assert "sessions/py-life" in [s.name for s in client.list_sessions()]
    client.delete_session("py-life")
    with pytest.raises(reprise_client.NotFound):
        client.get_session("py-life")


def test_fork_rewind_export_import(client):
    client.create_session("py-trunk")
    client.generate(PROMPT, session="py-trunk", max_tokens=21, **GREEDY).result()
    snapshot = client.create_snapshot("py-trunk")
    future = client.generate(session="py-trunk", max_tokens=20, **GREEDY).result().ids
    assert snapshot.name in [s.name for s in client.list_snapshots("py-trunk")]
    assert client.get_snapshot(snapshot.name).token_count == snapshot.token_count

    client.fork(snapshot.name, "py-fork")
    assert client.generate(session="py-fork", max_tokens=20, **GREEDY).result().ids == future

    client.rewind("py-trunk", snapshot.name)
    assert client.generate(session="py-trunk", max_tokens=20, **GREEDY).result().ids == future

    data = b"".join(client.export_snapshot(snapshot.name))
    for i, source in enumerate([data, io.BytesIO(data), [data[:100], data[100:]]]):
        client.import_snapshot(source, f"py-import-{i}")
        answer = client.generate(session=f"py-import-{i}", max_tokens=20, **GREEDY).result()
        assert answer.ids == future

    # A snapshot that is no head any more can go.
    client.generate(session="py-trunk", max_tokens=1, **GREEDY).result()
    client.delete_snapshot(snapshot.name)
    with pytest.raises(reprise_client.NotFound):
        client.get_snapshot(snapshot.name)


def test_typed_errors(client):
    with pytest.raises(reprise_client.NotFound) as caught:
        client.get_session("py-nope")
    assert caught.value.reason == "SESSION_NOT_FOUND"
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    assert caught.value.resource == "sessions/py-nope" and "py-nope" in str(caught.value)
    with pytest.raises(reprise_client.InvalidRequest) as caught:
        client.generate(PROMPT, temperature=-1.0).result()
    assert caught.value.reason == "INVALID_FIELD"
    assert "temperature" in caught.value.fields[0][0]
    assert "INVALID_FIELD" in str(caught.value)
    client.create_session("py-twice")
    with pytest.raises(reprise_client.AlreadyExists):
        client.create_session("py-twice")
    with pytest.raises(reprise_client.Conflict) as caught:
        client.generate(PROMPT, session="py-twice", session_version=77).result()
    assert caught.value.reason == "VERSION_MISMATCH" and caught.value.metadata["expected"] == "77"
    with pytest.raises(reprise_client.DeadlineExceeded):
        client.generate(PROMPT, max_tokens=50000, timeout=0.3, **GREEDY).result()
    with pytest.raises(ValueError):
        client.generate(PROMPT, durability="eventually")
    with pytest.raises(reprise_client.Unavailable):
        reprise_client.Client("127.0.0.1:9", timeout=5).list_models()


def test_cancel_keeps_what_was_generated(client):
    client.create_session("py-cancel")
    generation = client.generate(PROMPT, session="py-cancel", max_tokens=50000, **GREEDY)
    seen = 0
    with pytest.raises(reprise_client.Cancelled):
        for tokens in generation:
            seen += len(tokens.ids)
            if seen > 5:
                generation.cancel()
    # The turn is over when the next one is let in.
    for _ in range(100):
        try:
            turn = client.generate(session="py-cancel", max_tokens=1, **GREEDY).result()
            break
        except reprise_client.Conflict as conflict:
            assert conflict.reason == "SESSION_BUSY"
            time.sleep(0.02)
    assert turn.finished.usage.restored_tokens > 5


def test_one_client_many_threads(client):
    alone = client.generate(PROMPT, max_tokens=30, **GREEDY).result().ids
    answers = [None] * 8

    def ask(i):
        answers[i] = client.generate(PROMPT, max_tokens=30, **GREEDY).result().ids

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(answers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Neither the crowd nor the cache changes a token.
    assert answers == [alone] * len(answers)
