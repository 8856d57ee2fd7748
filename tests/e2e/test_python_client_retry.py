"""The Python client when connections break and servers go away."""

import pytest
import reprise_client
from reprise_client import Client, Retry
from tcp_proxy import TcpProxy

PROMPT = "The rain fell on the roof and"
LONG = {"max_tokens": 600, "ignore_eos": True}
PATIENT = Retry(seconds=60)


@pytest.fixture
def proxy(shared_server):
    with TcpProxy(shared_server.address) as proxy:
        yield proxy


def read_and_break(generation, break_it, after=20):
    """All ids and text of an answer that breaks when `after` tokens are there."""
    ids, text, broken = [], "", False
    for tokens in generation:
        ids += tokens.ids
        text += tokens.text
        if len(ids) >= after and not broken:
            broken = True
            break_it()
    assert broken
    return ids, text + generation.finished.text


def test_an_answer_without_a_session_goes_on(proxy, client):
    with Client(proxy.address, retry=PATIENT) as fragile:
        generation = fragile.generate(PROMPT, temperature=1.0, logprobs=True, **LONG)
        ids, text = read_and_break(generation, proxy.cut)
        whole = client.generate(PROMPT, temperature=1.0, seed=generation.finished.seed,
                                **LONG).result()
    assert ids == whole.ids and text == whole.text
    assert len(ids) == LONG["max_tokens"]


def test_without_retries_a_break_is_an_error(proxy):
    with Client(proxy.address, retry=Retry(0)) as fragile:
        with pytest.raises(reprise_client.Unavailable):
            read_and_break(fragile.generate(PROMPT, **LONG), proxy.cut)


def test_a_turn_that_was_committed_in_part_is_not_repeated(proxy, client):
    client.create_session("py-part")
    with Client(proxy.address, retry=PATIENT) as fragile:
        generation = fragile.generate(PROMPT, session="py-part", request_id="turn-1", **LONG)
        with pytest.raises(reprise_client.AnswerInterrupted) as caught:
            read_and_break(generation, proxy.cut)
    commit = caught.value.commit
    assert commit == client.commit_of("py-part", "turn-1")
    assert 20 < commit.committed_tokens
    assert client.get_session("py-part").token_count == commit.token_count
    # The caller's own repeat gets the commit, not an error.
    repeat = client.generate(PROMPT, session="py-part", request_id="turn-1", **LONG).result()
    assert repeat.finished.commit == commit and not repeat.ids


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("prompt_kind", ["text", "ids"])
def test_a_resumable_turn_is_whole(proxy, client, begun, prompt_kind):
    names = [f"py-whole-{prompt_kind}-{int(begun)}-{i}" for i in range(2)]
    prompt = PROMPT if prompt_kind == "text" else client.tokenize(PROMPT, add_bos=not begun)
    options = dict(temperature=1.0, seed=5, **LONG)
    for name in names:
        client.create_session(name)
        if begun:
            client.generate("A story.", session=name, max_tokens=3).result()
    with Client(proxy.address, retry=PATIENT) as fragile:
        generation = fragile.generate(prompt, session=names[0], resumable=True, **options)
        ids, text = read_and_break(generation, proxy.cut)
    whole = client.generate(prompt, session=names[1], **options).result()
    assert ids == whole.ids and text == whole.text
    assert [client.get_session(n).token_count for n in names] == [whole.finished.commit.token_count
                                                                 ] * 2
    ends = [client.generate(session=n, max_tokens=8).result().ids for n in names]
    assert ends[0] == ends[1]
    assert not [s for s in client.list_snapshots(names[0]) if s.retained]


def test_a_resumable_turn_leaves_other_writers_alone(proxy, client):
    client.create_session("py-others")
    client.generate("A story.", session="py-others", max_tokens=3).result()

    def break_and_write():
        proxy.cut()
        while True:  # until the broken turn has let go
            try:
                client.generate("Somebody else.", session="py-others", max_tokens=2).result()
                return
            except reprise_client.Conflict as busy:
                assert busy.reason == "SESSION_BUSY"

    with Client(proxy.address, retry=PATIENT) as fragile:
        generation = fragile.generate(PROMPT, session="py-others", resumable=True, **LONG)
        with pytest.raises(reprise_client.AnswerInterrupted, match="cannot be taken back"):
            read_and_break(generation, break_and_write)


@pytest.mark.parametrize("durability", ["", "every_n_tokens"])
def test_a_killed_server_that_comes_back(make_server, durability):
    server = make_server("killed")
    options = dict(temperature=0.9, seed=3, **LONG)
    if durability:
        options.update(durability=durability, checkpoint_tokens=48)
    with TcpProxy(server.address) as proxy, Client(proxy.address, retry=PATIENT) as client:
        whole = client.generate(PROMPT, **{**options, "durability": "", "checkpoint_tokens": 0})
        whole = whole.result()
        client.create_session("s")

        def crash():
            server.kill()
            server.start()
            proxy.target = server.address
            proxy.cut()

        generation = client.generate(PROMPT, session="s", **options)
        ids, text = read_and_break(generation, crash, after=60)
        assert ids == whole.ids and text == whole.text
        assert client.get_session("s").token_count == generation.finished.commit.token_count
        assert client.list_models()


def test_a_server_that_drains(make_server):
    server = make_server("drained", "--drain-seconds", "0")
    with TcpProxy(server.address) as proxy, Client(proxy.address, retry=PATIENT) as client:
        whole = client.generate(PROMPT, **LONG).result()
        client.create_session("s")
        client.generate("", session="s", max_tokens=0, add_bos=True).result()

        def restart():
            assert server.stop() == 0
            server.start()
            proxy.target = server.address
            proxy.cut()

        for options in [{}, {"session": "s", "resumable": True, "add_bos": False}]:
            ids, text = read_and_break(client.generate(PROMPT, **options, **LONG), restart)
            assert ids == whole.ids and text == whole.text


def test_feeding_goes_on_after_a_crash(make_server):
    server = make_server("fed")
    document = "It was a long day, and the road went on and on. " * 60
    with TcpProxy(server.address) as proxy, Client(proxy.address, retry=Retry(2)) as client:
        client.create_session("doc")
        reports = []

        def crash(done, total):
            reports.append((done, total))
            if done >= total // 2:
                server.kill()
                proxy.cut()

        with pytest.raises(reprise_client.Unavailable):
            client.feed("doc", document, chunk_tokens=64, durability="sync", progress=crash)
        server.start()
        proxy.target = server.address
        fed = client.feed("doc", document, chunk_tokens=64,
                          progress=lambda *report: reports.append(report))
        ids = client.tokenize(document, add_bos=True)
        assert fed.skipped >= reports[0][1] // 2 and fed.skipped + fed.computed == len(ids)
        assert fed.token_count == len(ids) == client.get_session("doc").token_count
        assert reports[-1] == (len(ids), len(ids)) and len(reports) > len(ids) // 64
        # All there: nothing to do. Something else: refused, unless asked for.
        assert client.feed("doc", document).computed == 0
        with pytest.raises(reprise_client.Conflict, match="not the beginning"):
            client.feed("doc", "Another " + document)
        one_piece = client.generate(document, max_tokens=16, no_prefix_cache=True).result()
        assert client.generate(session="doc", max_tokens=16).result().ids == one_piece.ids
        # What follows a snapshot can be resumed too.
        mark = client.create_snapshot("doc")
        end = client.tokenize("The end. And then they went home.")
        client.feed("doc", end[:3], after=mark)
        assert client.feed("doc", end, after=mark.name).skipped == 3
        before = client.get_session("doc").token_count
        appended = client.feed("doc", "More.", resume=False)
        assert appended.token_count == before + appended.computed


def test_another_replica_takes_over(make_server, redis):
    url = redis.url
    servers = [make_server(f"replica{i}", "--lease-seconds", "1", store=url) for i in range(2)]
    by_address = {server.address: server for server in servers}
    with Client(list(by_address), retry=PATIENT) as client:
        client.create_session("s")
        client.generate(PROMPT, session="s", max_tokens=5, durability="sync").result()
        own = client._connection._chooser.order("s")[0]
        with Client(own) as direct:
            whole = direct.generate(PROMPT, session=direct.fork("s").name, **LONG).result()
        generation = client.generate(PROMPT, session="s", **LONG)
        ids, _ = read_and_break(generation, by_address[own].kill)
        assert ids == whole.ids
        assert client.get_session("s").token_count == generation.finished.commit.token_count
        assert client._connection._chooser.order("s")[0] != own
