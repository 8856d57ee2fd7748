"""A short load; the long one is run by hand (load.py)."""

import asyncio

import load
import pytest


def test_streams_that_end_in_every_way_leave_nothing_behind(model_dir, tmp_path):
    settings = load.Settings(streams=60, seconds=20, stall_seconds=1)
    with load.Scene(model_dir, tmp_path, settings, ["--slots", 8]) as scene:
        report = asyncio.run(load.run(scene, settings))
    for action in ("whole", "session", "cancelled", "vanished", "stalled", "deadline",
                   "cancelled_session"):
        assert report["calls"].get(action, 0) > 0, report


def test_what_is_left_behind_is_noticed(model_dir, tmp_path):
    """The check itself: a session that nobody deletes, and a stream that goes on."""
    settings = load.Settings(streams=1, seconds=0)
    with load.Scene(model_dir, tmp_path, settings) as scene:
        assert scene.held() == {}

        async def leave():
            work = load.Load(scene.server, settings)
            client = load._Client(work, 0)
            await client._create()
            request = client._request()
            request.stop.max_tokens = 4000
            request.output.top_logprobs = 20
            call = client._generation.Generate(request)
            await call.read()
            held = await asyncio.to_thread(scene.held)
            call.cancel()
            with pytest.raises(load.Violation, match="differ"):
                work.check_answer([1], [5, 6])
                work.check_answer([1], [5, 7])
            await work.run()
            return held

        held = asyncio.run(leave())
        assert held["sessions"] == 1 and held["slots"] >= 1 and held["reprise_requests_running"] >= 1
