"""Several answers to one prompt, and priorities, from the Python client."""

import asyncio

import pytest
import reprise_client
from reprise_client import AsyncClient, Retry
from tcp_proxy import TcpProxy

PROMPT = "The rain fell on the roof and"
HOT = {"temperature": 1.2, "ignore_eos": True}


def test_choices_are_answers_of_their_own_seeds(client):
    results = client.choices(PROMPT, 3, max_tokens=12, seed=5, **HOT)
    assert len({result.text for result in results}) == 3
    for result in results:
        alone = client.generate(PROMPT, max_tokens=12, seed=result.finished.seed, **HOT).result()
        assert (alone.ids, alone.text) == (result.ids, result.text)
    assert results[0].finished.seed == 5
    assert client.choices(PROMPT, max_tokens=12, seed=5, **HOT)[0].ids == results[0].ids


def test_best_of(client):
    results = client.choices(PROMPT, 6, max_tokens=8, seed=3, logprobs=True, **HOT)
    mean = lambda result: sum(t.logprob for t in result.logprobs) / len(result.logprobs)
    best = sorted(results, key=mean, reverse=True)[:2]
    found = client.choices(PROMPT, 2, best_of=6, max_tokens=8, seed=3, **HOT)
    assert [r.ids for r in found] == [r.ids for r in best]


def test_a_session_gets_the_first(client):
    with client.session() as session:
        results = client.choices(PROMPT, 2, session=session.name, max_tokens=5, **HOT)
        assert results[0].finished.HasField("commit")
        assert session.get().token_count == results[0].finished.commit.token_count


def test_a_broken_connection(shared_server, client):
    expected = [r.ids for r in client.choices(PROMPT, 2, max_tokens=300, seed=1, **HOT)]
    with TcpProxy(shared_server.address) as proxy:

        async def work():
            async with AsyncClient(proxy.address, retry=Retry(30)) as fragile:
                await fragile.list_models()
                asking = asyncio.ensure_future(
                    fragile.choices(PROMPT, 2, max_tokens=300, seed=1, **HOT))
                await asyncio.sleep(0.05)
                proxy.cut()
                return [r.ids for r in await asking]

        assert asyncio.run(work()) == expected


def test_other_fields_arrive(client):
    assert client.generate(PROMPT, max_tokens=1, priority="high").result().ids
    with pytest.raises(ValueError):
        client.generate(PROMPT, priority="royal")
    with pytest.raises(reprise_client.InvalidRequest) as caught:
        client.generate(PROMPT, keep_partial=True, max_tokens=1).result()
    assert "keep_partial" in str(caught.value.fields)
    with pytest.raises(reprise_client.InvalidRequest):
        client.choices(PROMPT, 3, best_of=2)
