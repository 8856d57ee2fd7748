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
    assert report["errors"].get("RESOURCE_EXHAUSTED QUOTA_EXCEEDED", 0) > 0


def test_a_state_of_other_tokens_is_noticed(model_dir, tmp_path):
    """The check itself: one token of one prompt is not what its client believes."""
    settings = soak.Settings(clients=1, seconds=2, fault_seconds=0)

    async def run(scene):
        work = soak.Soak(settings, scene.connect)
        await work.run()
        (_, sessions), = work.sessions
        longest = max(sessions, key=lambda known: known.tokens)
        longest.turns[0].prompt[0] ^= 1
        with pytest.raises(soak.Violation, match="differs|does not go on"):
            await work.check_sessions()

    with soak_run.Scene(model_dir, tmp_path, settings) as scene:
        asyncio.run(run(scene))
