"""Sessions in Redis under servers that stop, die and repeat themselves: one writer, turns that count
once, and no more lost than docs/durability.md says."""

import subprocess
import threading
import time

import pytest

import reprise_client
from local_redis import LocalRedis
from reprise_client import Conflict, FailedPrecondition, NotFound, Unavailable
from waiting import until

PROMPT = "It was a bright cold day in April, and the clocks were striking"
PATIENCE = 60
SHORT_LEASE = ("--lease-seconds", "1")


def whole_run(client, tokens, prompt=PROMPT):
    return client.generate(prompt, max_tokens=tokens, ignore_eos=True).result().ids


class Turn(threading.Thread):
    """A turn that runs beside the test: its ids so far, how it ended, and with what."""

    def __init__(self, client, prompt, **options):
        super().__init__(daemon=True)
        self._generation = client.generate(prompt, ignore_eos=True, **options)
        self.ids, self.replayed, self.finished, self.error = [], [], None, None
        self.start()

    def run(self):
        try:
            for tokens in self._generation:
                self.ids.extend(tokens.ids)
                if tokens.replayed:
                    self.replayed.extend(tokens.ids)
            self.finished = self._generation.finished
        except reprise_client.RepriseError as error:
            self.error = error

    def ended(self):
        self.join(PATIENCE)
        assert not self.is_alive()
        return self


def test_a_paused_server_cannot_commit_and_another_takes_over(redis, make_server, connect):
    first = make_server("a", *SHORT_LEASE, store=redis.url)
    second = make_server("b", *SHORT_LEASE, store=redis.url)
    one, two = connect(first), connect(second)
    one.create_session("s")
    turn = Turn(one, PROMPT, session="s", max_tokens=60000)
    until(lambda: turn.ids)
    # Held: the other says so, and for how long.
    with pytest.raises(Conflict) as busy:
        two.generate(PROMPT, session="s", max_tokens=3).result()
    assert busy.value.reason == "SESSION_BUSY"
    assert 0 < busy.value.retry_after <= 1
    first.pause()
    expected = whole_run(two, 5)

    def take_over():
        try:
            return two.generate(PROMPT, session="s", max_tokens=5, ignore_eos=True,
                                durability="sync").result()
        except Conflict as error:
            assert error.reason == "SESSION_BUSY", error
            return None
    assert until(take_over).ids == expected
    first.resume()
    # Its turn goes on, and may not be stored: not even when it is ended on purpose.
    turn._generation.cancel()
    turn.ended()
    until(lambda: "not committed" in first.log.read_text())
    assert two.get_session("s").version == 2
    assert two.generate(session="s", max_tokens=4, ignore_eos=True).result().ids == \
        whole_run(two, 9)[5:]


def test_a_server_paused_for_longer_than_its_lease_answers_aborted(redis, make_server, connect):
    server = make_server("a", *SHORT_LEASE, store=redis.url)
    client = connect(server)
    client.create_session("s")
    for durability in ("async", "sync"):
        turn = Turn(client, PROMPT, session="s", max_tokens=300, durability=durability)
        until(lambda: turn.ids)
        server.pause()
        time.sleep(1.5)  # nobody else comes: that alone is too long
        server.resume()
        assert isinstance(turn.ended().error, Conflict), turn.error
        assert turn.error.reason == "LEASE_LOST"
        assert client.get_session("s").version == 1


def test_a_repeated_turn_counts_once_on_any_server(redis, make_server, connect):
    first = make_server("a", *SHORT_LEASE, store=redis.url)
    one = connect(first)
    one.create_session("s")
    with pytest.raises(NotFound) as unknown:
        one.commit_of("s", "r1")
    assert unknown.value.reason == "COMMIT_NOT_FOUND"
    turn = one.generate(PROMPT, session="s", max_tokens=10, ignore_eos=True, request_id="r1",
                        durability="sync").result()
    # The answer may as well have been lost.
    first.kill()
    two = connect(make_server("b", store=redis.url))

    def repeat():
        try:
            return two.generate(PROMPT, session="s", max_tokens=10, request_id="r1").result()
        except Conflict as error:  # the dead server's lease
            assert error.reason == "SESSION_BUSY", error
            return None
    again = until(repeat)
    assert again.ids == []
    assert again.finished.commit.already_committed
    assert again.finished.commit.version == turn.finished.commit.version == 2
    assert again.finished.commit.committed_tokens == turn.finished.commit.committed_tokens
    assert two.get_session("s").version == 2
    # Also when the session has moved on since.
    two.generate(session="s", max_tokens=3, request_id="r2", durability="sync").result()
    assert two.generate(PROMPT, session="s", request_id="r1").result().finished.commit.version == 2
    commit = two.commit_of("s", "r1")
    assert (commit.version, commit.token_count) == (2, turn.finished.commit.token_count)
    assert not commit.pending
    assert two.get_session("s").version == 3


def test_a_crash_loses_what_async_may_lose_and_nothing_more(redis, make_server, connect):
    server = make_server("a", *SHORT_LEASE, store=redis.url)
    client = connect(server)
    client.create_session("s")
    first = client.generate(PROMPT, session="s", max_tokens=5, ignore_eos=True,
                            durability="sync").result()
    # A turn that has begun finds Redis hanging when it ends: it is acknowledged all the same.
    turn = Turn(client, "", session="s", max_tokens=400, request_id="r2")
    until(lambda: turn.ids)
    redis.pause()
    assert turn.ended().finished is not None, turn.error
    assert turn.finished.commit.version == 3
    assert client.commit_of("s", "r2").pending
    server.kill()
    redis.resume()
    two = connect(make_server("b", *SHORT_LEASE, store=redis.url))
    session = two.get_session("s")
    # What was acknowledged SYNC is there, to the token; the ASYNC turn is gone as a whole.
    assert (session.version, session.token_count) == (2, first.finished.commit.token_count)
    again = until(lambda: _try(lambda: two.generate(
        "", session="s", max_tokens=400, ignore_eos=True, request_id="r2").result()))
    assert again.ids == turn.ids


def _try(call):
    try:
        return call()
    except Conflict:
        return None


def test_sync_turns_survive_any_crash(redis, make_server, connect):
    server = make_server("a", *SHORT_LEASE, store=redis.url)
    ids = []
    connect(server).create_session("s")
    for turn in range(3):
        client = connect(server)
        ids += until(lambda: _try(lambda: client.generate(
            "" if turn else PROMPT, session="s", max_tokens=7, ignore_eos=True,
            durability="sync").result())).ids
        server.kill()
        server.start()
        assert connect(server).get_session("s").version == 2 + turn
    assert ids == whole_run(connect(server), 21)


@pytest.mark.parametrize("kind", ["redis", "disk"])
def test_a_crash_resumes_from_the_last_checkpoint(redis, make_server, connect, kind):
    every, total = 20, 400
    store = redis.url if kind == "redis" else None
    server = make_server("a", *SHORT_LEASE, store=store)
    client = connect(server)
    expected = whole_run(client, total)
    client.create_session("s")
    options = dict(session="s", max_tokens=total, request_id="long", durability="every_n_tokens",
                   checkpoint_tokens=every)
    turn = Turn(client, PROMPT, **options)
    until(lambda: len(turn.ids) > 3 * every)
    server.kill()
    turn.ended()
    server.start()
    client = connect(server)
    session = client.get_session("s")
    assert session.version > 1
    # At most two checkpoints' worth of what was seen has to be computed again.
    kept = session.token_count
    assert kept >= len(turn.ids) - 2 * every
    again = until(lambda: _resumed(client, PROMPT, options))
    assert again.ids == expected
    assert 0 < len(again.replayed) <= kept
    assert again.replayed == expected[:len(again.replayed)]
    # Only what came after the checkpoint went through the model.
    assert again.finished.usage.computed_tokens <= total - len(again.replayed) + 1
    assert again.finished.usage.completion_tokens == total
    after = client.get_session("s")
    assert after.token_count == again.finished.commit.token_count
    assert after.version > session.version
    # Now it is a turn like any other.
    repeat = client.generate(PROMPT, **options).result()
    assert repeat.ids == [] and repeat.finished.commit.already_committed
    assert client.generate(session="s", max_tokens=5, ignore_eos=True).result().ids == \
        whole_run(client, total + 5)[total:]


def _resumed(client, prompt, options):
    turn = Turn(client, prompt, **options).ended()
    if isinstance(turn.error, Conflict) and turn.error.reason == "SESSION_BUSY":
        return None
    assert turn.error is None, turn.error
    return turn


def test_a_long_prompt_resumes_in_its_middle(redis, make_server, connect):
    flags = SHORT_LEASE + ("--prefill-chunk-tokens", "16", "--step-tokens", "64", "--slots", "4")
    server = make_server("a", *flags, store=redis.url)
    client = connect(server)
    prompt = " ".join([PROMPT] * 200)
    client.create_session("s")
    client.generate("Once", session="s", max_tokens=3, ignore_eos=True, durability="sync").result()
    client.fork("s", session_id="whole")
    expected = client.generate(prompt, session="whole", max_tokens=5, ignore_eos=True).result().ids
    before = client.get_session("s")
    options = dict(session="s", max_tokens=5, request_id="long", durability="every_n_tokens",
                   checkpoint_tokens=64)
    turn = Turn(client, prompt, **options)
    until(lambda: client.get_session("s").version > before.version + 1 or turn.finished)
    assert turn.finished is None, "the prompt is too short for this test"
    server.kill()
    turn.ended()
    server.start()
    client = connect(server)
    middle = client.get_session("s")
    assert before.token_count < middle.token_count
    # Half a prompt is nothing that another turn may go on from.

    def refused():
        try:
            client.generate("Else", session="s", max_tokens=1, request_id="other").result()
        except FailedPrecondition as error:
            return error
        except Conflict:
            return None
        pytest.fail("it went on from the middle of a prompt")
    error = until(refused)
    assert error.reason == "TURN_UNFINISHED"
    assert error.metadata["request_id"] == "long"
    assert error.metadata["snapshot"].startswith("sessions/s/snapshots/")
    again = until(lambda: _resumed(client, prompt, options))
    assert again.ids == expected
    assert again.finished.usage.restored_tokens >= middle.token_count - 1
    # The way back is taken down with the turn's end.
    assert not [s for s in client.list_snapshots("s") if s.retained]


def test_losing_redis_degrades_and_heals(redis, make_server, connect):
    server = make_server("a", *SHORT_LEASE, "--store-timeout-seconds", "1", store=redis.url)
    client = connect(server)
    client.create_session("s")
    client.create_session("cold")
    ids = client.generate(PROMPT, session="s", max_tokens=5, ignore_eos=True,
                          durability="sync").result().ids
    redis.kill()
    with pytest.raises(Unavailable) as lost:
        client.generate("", session="s", max_tokens=5, durability="sync").result()
    assert lost.value.reason == "STORE_UNAVAILABLE"
    # In the host cache, and may be lost: goes on.
    for _ in range(2):
        turn = client.generate("", session="s", max_tokens=5, ignore_eos=True).result()
        ids += turn.ids
    assert turn.finished.commit.version == 4
    assert client.get_session("s").version == 4
    with pytest.raises(Unavailable):
        client.generate("", session="s", max_tokens=5, durability="sync").result()
    with pytest.raises(Unavailable):
        list(client.list_sessions())
    redis.start()
    until(lambda: "Redis answers again" in server.log.read_text())
    two = connect(make_server("b", store=redis.url))
    until(lambda: two.get_session("s").version == 4)
    ids += until(lambda: _try(lambda: two.generate(
        "", session="s", max_tokens=5, ignore_eos=True).result())).ids
    assert ids == whole_run(two, 20)
    assert server.stop() == 0
    log = server.log.read_text()
    assert "Redis does not answer" in log
    assert "2 commits without it" in log and "0 lost" in log


def test_a_server_without_redis_refuses_no_version_that_it_cannot_know(redis, make_server, connect):
    server = make_server("a", *SHORT_LEASE, "--store-timeout-seconds", "1", store=redis.url)
    one, two = connect(server), connect(make_server("b", store=redis.url))
    one.create_session("s")
    one.generate(PROMPT, session="s", max_tokens=2, durability="sync").result()
    until(lambda: _try(lambda: two.generate("", session="s", max_tokens=2,
                                            durability="sync").result()))
    assert two.get_session("s").version == 3
    redis.kill()

    def refused(version):
        with pytest.raises((Conflict, Unavailable)) as error:
            one.generate("", session="s", max_tokens=1, session_version=version).result()
        return error.value.reason

    assert refused(3) == "STORE_UNAVAILABLE"  # the other has told its client of it
    assert refused(1) == "VERSION_MISMATCH"   # versions only grow
    assert one.get_session("s").version == 2


def test_a_drained_server_writes_what_it_acknowledged(redis, make_server, connect):
    server = make_server("a", store=redis.url)
    client = connect(server)
    client.create_session("s")
    for version in (2, 3, 4):
        turn = client.generate(PROMPT, session="s", max_tokens=2).result()
        assert turn.finished.commit.version == version
    assert server.stop() == 0
    assert connect(make_server("b", store=redis.url)).get_session("s").version == 4


def test_sync_with_replicas_outlives_the_master(make_server, connect, tmp_path):
    with LocalRedis(tmp_path / "m") as master, LocalRedis(tmp_path / "r") as replica:
        replica.do("replicaof", "127.0.0.1", master.port)
        until(lambda: "state=online" in master.do("info", "replication"))
        server = make_server("a", store=master.url)
        client = connect(server)
        client.create_session("s")
        turn = client.generate(PROMPT, session="s", max_tokens=5, durability="sync",
                               sync_replicas=1).result()
        # One that cannot have it in time is an error, not a promise.
        with pytest.raises(Unavailable) as few:
            client.generate("", session="s", max_tokens=5, durability="sync",
                            sync_replicas=2).result()
        assert few.value.reason == "STORE_UNAVAILABLE"
        server.kill()
        master.kill()
        replica.do("replicaof", "no", "one")
        session = connect(make_server("b", store=replica.url)).get_session("s")
        assert session.version >= 2
        assert session.token_count >= turn.finished.commit.token_count


def test_tls_and_passwords(make_server, connect, tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-keyout", key, "-out", cert, "-subj", "/CN=redis.test",
                    "-addext", "subjectAltName=DNS:redis.test"], check=True, capture_output=True)
    secret = "p@ss/w:ord %25"
    with LocalRedis(tmp_path / "tls", "--tls-cert-file", cert, "--tls-key-file", key,
                      "--tls-ca-cert-file", cert, "--tls-auth-clients", "yes",
                      "--requirepass", secret, tls=True) as redis:
        password = tmp_path / "password"
        password.write_text(secret + "\n")
        tls = ["--store-tls-ca", cert, "--store-tls-cert", cert, "--store-tls-key", key,
               "--store-password-file", password, "--store-timeout-seconds", "2"]
        url = f"rediss://127.0.0.1:{redis.port}"
        server = make_server("a", *tls, "--store-tls-server-name", "redis.test", store=url)
        client = connect(server)
        client.create_session("s")
        assert client.generate(PROMPT, session="s", max_tokens=3,
                               durability="sync").result().finished.commit.version == 2
        # Another name than the certificate's is refused, and no secret is in any log.
        stranger = make_server("b", *tls, "--store-tls-server-name", "other.test", store=url)
        with pytest.raises(Unavailable):
            connect(stranger).get_session("s")
        for log in (server.log, stranger.log):
            assert secret not in log.read_text()


def test_a_refused_flag_does_not_tell_the_password(make_server):
    for store in ("redis://user:hunter2@host:99999", "redus://user:hunter2@host"):
        with pytest.raises(RuntimeError) as refused:
            make_server("a", store=store)
        assert "--store" in str(refused.value)
        assert "hunter2" not in str(refused.value)
