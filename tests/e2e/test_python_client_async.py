"""The asyncio side of the Python client. What both sides share is made from it (make_sync.py), and
tested with the blocking client; here is what only asyncio has."""

import asyncio
import pathlib
import subprocess
import sys

import pytest
import reprise_client
from reprise_client import AsyncClient, Retry
from tcp_proxy import TcpProxy

CLIENT = pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"
PROMPT = "The rain fell on the roof and"
GREEDY = {"ignore_eos": True}


def run(address, work, **options):
    """`work(client)` in an event loop of its own."""

    async def main():
        async with AsyncClient(address, **options) as client:
            return await asyncio.wait_for(work(client), 120)

    return asyncio.run(main())


def test_both_clients_are_one():
    done = subprocess.run([sys.executable, str(CLIENT / "make_sync.py"), "--check"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_answers_are_those_of_the_blocking_client(shared_server, client, tmp_path):
    expected = client.generate(PROMPT, max_tokens=20, **GREEDY).result()

    async def work(client):
        ids = [i async for tokens in client.generate(PROMPT, max_tokens=20, **GREEDY)
               for i in tokens.ids]
        texts = [t async for t in client.generate(PROMPT, max_tokens=20, **GREEDY).texts()]
        many = await asyncio.gather(*(client.generate(PROMPT, max_tokens=20, **GREEDY).result()
                                      for _ in range(8)))
        assert [r.ids for r in many] == [ids] * 8
        score = await client.score(PROMPT)
        (model,) = await client.list_models()
        assert await client.get_model(model.name) == model
        assert await client.detokenize(await client.tokenize("Hello, world")) == "Hello, world"
        return ids, "".join(texts), score

    ids, text, score = run(shared_server.address, work)
    assert ids == expected.ids and text == expected.text
    assert score == client.score(PROMPT)


def test_sessions_forks_and_files(shared_server, tmp_path):

    async def work(client):
        async with await client.session() as session:
            assert (await session.feed(PROMPT, chunk_tokens=3)).computed > 3
            mark = await session.snapshot()

            async def tell(fork, seed):
                answer = fork.generate(max_tokens=8, temperature=1.0, seed=seed)
                return (await answer.result()).text

            texts = await session.map_forks(tell, [1, 2, 1])
            assert texts[0] == texts[2] != texts[1]
            async with session.forks(2) as forks:
                assert len({fork.id for fork in forks}) == 2
            with pytest.raises(reprise_client.NotFound):
                await forks[0].get()
            future = (await session.generate(max_tokens=8, **GREEDY).result()).ids
            await session.rewind(mark)
            assert mark.name in [s.name async for s in session.snapshots()]
            await session.export_to(tmp_path / "file")
            imported = await client.import_from_file(tmp_path / "file", ttl=60)
            answer = await client.generate(session=imported.name, max_tokens=8, **GREEDY).result()
            assert answer.ids == future
            assert session.name in [s.name async for s in client.list_sessions()]
        with pytest.raises(reprise_client.NotFound):
            await session.get()

    run(shared_server.address, work)


def test_a_failing_fork_stops_the_others(shared_server):

    async def work(client):
        async with await client.session() as session:
            await session.feed(PROMPT)
            cancelled = asyncio.Event()

            async def one(fork, fails):
                if fails:
                    raise KeyError("one")
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    cancelled.set()
                    raise

            with pytest.raises(KeyError):
                await session.map_forks(one, [False, True])
            assert cancelled.is_set()

    run(shared_server.address, work)


def test_cancel_and_cancelled_tasks(shared_server):

    async def work(client):
        generation = client.generate(PROMPT, max_tokens=50000, **GREEDY)
        with pytest.raises(reprise_client.Cancelled):
            async for _ in generation:
                generation.cancel()
        # A cancelled task is asyncio's own affair.
        task = asyncio.ensure_future(client.generate(PROMPT, max_tokens=50000, **GREEDY).result())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(reprise_client.DeadlineExceeded):
            await client.generate(PROMPT, max_tokens=50000, timeout=0.3, **GREEDY).result()
        with pytest.raises(reprise_client.InvalidRequest):
            await client.generate(PROMPT, temperature=-1.0).result()

    run(shared_server.address, work)


@pytest.mark.parametrize("resumable", [False, True])
def test_a_broken_connection(shared_server, resumable):
    with TcpProxy(shared_server.address) as proxy:

        async def work(client):
            long = dict(max_tokens=400, temperature=1.0, seed=4, **GREEDY)
            whole = (await client.generate(PROMPT, **long).result()).ids
            session = await client.session() if resumable else None
            ids = []
            async for tokens in client.generate(PROMPT, session=session.name if session else "",
                                                resumable=resumable, **long):
                if not ids:
                    proxy.cut()
                ids += tokens.ids
            assert ids == whole

        run(proxy.address, work, retry=Retry(30))
