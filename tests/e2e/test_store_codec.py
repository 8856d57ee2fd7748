"""How states are stored: compressed ones are the same to the bit, lossy ones smaller and marked as such."""

import pytest

from redis_process import other_redis, redis  # noqa: F401
from server_process import ServerProcess
from test_admin import admin_json
from test_durability import GREEDY, begin, go_on, whole_run

SYNC = [*GREEDY, "--durability", "sync"]
# No cache, so that what is resumed is what was stored.
COLD = ["--host-cache-bytes", "0"]


def stored_bytes(redis):
    return admin_json("usage", redis.url)[0]["stored_bytes"]


def manifest(redis, session):
    key = f"reprise:1:s:{{default:{session}}}"
    return redis.do("HGET", key, "m:" + redis.do("HGET", key, "head").decode())


def test_compressed_states_are_smaller_and_exact(make_server, cli_for, redis, other_redis):
    plain = cli_for(make_server("a", *COLD, store=other_redis.url))
    head, tail = whole_run(plain, GREEDY, 50, 40)
    begin(plain, "one", SYNC, 50)
    packed = cli_for(make_server("b", *COLD, "--store-zstd-level", "3", store=redis.url))
    assert begin(packed, "one", SYNC, 50) == head
    assert 0 < stored_bytes(redis) < stored_bytes(other_redis)
    # Whoever resumes it, whatever its own flags.
    bare = cli_for(make_server("c", *COLD, store=redis.url))
    assert go_on(bare, "one", SYNC, 20) == tail[:20]
    assert go_on(packed, "one", SYNC, 20) == tail[20:]


@pytest.mark.parametrize("encoding, mark, most", [("bf16", b"f32~bf16", 0.8), ("int8", b"f32~i8x", 0.7)])
def test_lossy_states_are_smaller_and_say_so(make_server, cli_for, redis, encoding, mark, most):
    exact = make_server("a", *COLD, store=redis.url)
    begin(cli_for(exact), "exact", SYNC, 20)
    size = stored_bytes(redis)
    assert b"f32~" not in manifest(redis, "exact")
    rules = ",".join(f"{role}={encoding}" for role in ("rg_lru", "conv_tail", "kv_window"))
    lossy = make_server("b", *COLD, "--store-lossy", rules, store=redis.url)
    assert "less precision" in lossy.log.read_text()
    begin(cli_for(lossy), "lossy", SYNC, 20)
    assert 0 < stored_bytes(redis) - size < most * size
    assert mark in manifest(redis, "lossy")
    # A server without the flag reads it, goes on from it, and writes an exact state again.
    assert len(go_on(cli_for(exact), "lossy", SYNC, 5)) == 5
    assert b"f32~" not in manifest(redis, "lossy")
    # And one with it reads what is exact.
    assert len(go_on(cli_for(lossy), "exact", SYNC, 5)) == 5


@pytest.mark.parametrize("flag, value", [("--store-zstd-level", "20"), ("--store-lossy", "ssm=bf16"),
                                         ("--store-lossy", "rg_lru=fp8")])
def test_wrong_values_end_the_start(model_dir, tmp_path, flag, value):
    server = None
    with pytest.raises(Exception) as refused:
        server = ServerProcess(model_dir, tmp_path / "x", [flag, value])
    assert server is None
    assert flag in str(refused.value)
