"""Sessions of the Python client as objects: forks, the past, files, progress."""

import io
import sys
import threading

import pytest
import reprise_client

PROMPT = "The rain fell on the roof and"
GREEDY = {"ignore_eos": True}


def exists(client, session):
    try:
        client.get_session(session.name)
        return True
    except reprise_client.NotFound:
        return False


def test_a_session_without_a_name_is_temporary(client):
    with client.session(labels={"a": "b"}) as session:
        assert session.get().labels == {"a": "b"}
    assert not exists(client, session)
    with client.session(keep=True) as kept:
        pass
    assert exists(client, kept)
    kept.delete()
    with kept:  # deleted already: no harm
        kept.keep = False


def test_a_named_session_is_opened_again(client):
    with client.session("py-open") as session:
        session.generate(PROMPT, max_tokens=2).result()
    with client.session("py-open", keep=False) as again:
        assert again.get().token_count > 2
    assert not exists(client, again)


def test_forks_stand_where_the_session_stands(client):
    with client.session() as session:
        session.generate(PROMPT, max_tokens=4, **GREEDY).result()
        with session.forks(3) as forks:
            answers = [fork.generate(max_tokens=12, **GREEDY).result().ids for fork in forks]
            forks[1].keep = True
        assert [exists(client, fork) for fork in forks] == [False, True, False]
        forks[1].delete()
        own = session.generate(max_tokens=12, **GREEDY).result().ids
        assert answers == [own] * 3
        with pytest.raises(ValueError):
            session.fork(0)
    with client.session() as empty:
        with pytest.raises(reprise_client.FailedPrecondition):
            empty.fork()


def test_map_forks(client):
    with client.session() as session:
        session.generate(PROMPT, max_tokens=4, **GREEDY).result()
        seen, lock, running, most = [], threading.Lock(), [0], [0]

        def tell(fork, seed):
            with lock:
                seen.append(fork)
                running[0] += 1
                most[0] = max(most[0], running[0])
            text = fork.generate(max_tokens=8, temperature=1.0, seed=seed).result().text
            with lock:
                running[0] -= 1
            return seed, text

        results = session.map_forks(tell, range(6), limit=2)
        assert [seed for seed, _ in results] == list(range(6)) and most[0] <= 2
        assert len({text for _, text in results}) > 1
        # Forks of one state: the same seed tells the same.
        assert session.map_forks(tell, [0, 0])[0] == results[0]
        assert not any(exists(client, fork) for fork in seen)
        assert session.map_forks(tell, []) == []

        def fail(fork, item):
            seen.append(fork)
            raise KeyError(item)

        with pytest.raises(KeyError):
            session.map_forks(fail, range(3), limit=1)
        assert not any(exists(client, fork) for fork in seen)


def test_the_past(client, tmp_path):
    with client.session() as session:
        session.generate(PROMPT, max_tokens=4).result()
        mark = session.snapshot()
        future = session.generate(max_tokens=9, **GREEDY).result().ids
        assert mark.name in [s.name for s in session.snapshots()]
        session.rewind(mark)
        assert session.get().token_count == mark.token_count
        session.rewind(mark.name.rsplit("/", 1)[1])
        path = tmp_path / "s.snapshot"
        assert session.export_to(path) == path.stat().st_size > 0
        assert not list(tmp_path.glob("*.part"))
        imported = client.import_from_file(path, "py-from-file")
        assert client.generate(session=imported.name, max_tokens=9, **GREEDY).result().ids == future
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(reprise_client.RepriseError):
            client.import_from_file(path)
        with pytest.raises(reprise_client.NotFound):
            client.export_to_file("py-nobody", tmp_path / "nothing")
        assert not list(tmp_path.glob("nothing*"))


def test_commits(client):
    with client.session() as session:
        turn = session.generate(PROMPT, max_tokens=2, request_id="mine").result()
        assert client.commit_of(session.id, "mine").version == turn.finished.commit.version
        with pytest.raises(reprise_client.NotFound) as caught:
            client.commit_of(session.id, "yours")
        assert caught.value.reason == "COMMIT_NOT_FOUND"


@pytest.mark.parametrize("kind", ["tqdm", "rich"])
def test_progress_bars(client, kind, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr" if kind == "tqdm" else "stdout", shown)
    with client.session() as session:
        fed = session.feed(PROMPT * 8, chunk_tokens=16, progress=kind)
        assert fed.computed == session.get().token_count > 16
    assert "prompt" in shown.getvalue() and "100%" in shown.getvalue()


def test_feed_refuses_nonsense(client):
    with client.session() as session:
        with pytest.raises(ValueError, match="chunk_tokens"):
            session.feed(PROMPT, chunk_tokens=0)
        with pytest.raises(ValueError, match="tqdm"):
            session.feed(PROMPT, progress="abacus")
        assert session.feed([]).computed == 0


def test_cache_marks_arrive(client):
    first, second = "In the beginning there was a town. ", "It had a river."
    client.generate(first + second, max_tokens=0, cache_marks=[len(first)]).result()
    other = client.generate(first + "Nobody lived there.", max_tokens=0).result()
    assert other.finished.usage.cached_tokens > 0
    nothing = client.generate(first + second, max_tokens=0, no_prefix_cache=True).result()
    assert nothing.finished.usage.cached_tokens == 0
