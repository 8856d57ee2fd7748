"""A short soak: the long one is run by hand (soak_run.py)."""

import asyncio

import pytest
import soak
import soak_run


def test_no_turn_is_lost_or_doubled_and_every_state_is_where_its_tokens_are(model_dir, tmp_path):
    settings = soak.Settings(clients=15, seconds=12, fault_seconds=2)
    with soak_run.Scene(model_dir, tmp_path, settings) as scene:
        report = asyncio.run(soak_run.run(scene, settings))
    assert report["actions"]["sessions checked"] > 0
    assert sum(report["faults"].values()) > 0


def test_a_lost_turn_is_noticed(model_dir, tmp_path):
    """The check itself: a session that somebody else moved is not what its owner knows."""
    settings = soak.Settings(clients=1, seconds=2, fault_seconds=0)

    async def run(scene):
        work = soak.Soak(settings, scene.connect)
        await work.run()
        (_, sessions), = work.sessions
        last = max(sessions, key=lambda known: known.tokens)
        last.turns[-1].prompt[-1] ^= 1
        with pytest.raises(soak.Violation, match="differs|does not go on"):
            await work.check_sessions()

    with soak_run.Scene(model_dir, tmp_path, settings) as scene:
        asyncio.run(run(scene))
