#!/usr/bin/env python3
"""Many streams on one server, whose clients vanish, cancel, stall and run out of time.

    load.py [--streams 500] [--minutes 10] [--seed 1] [--model DIR] [--flag=--slots=32 ...]

Each stream belongs to a client that makes one call after the other. What a client is told must follow
from what it did itself; every answer that came whole must be, token for token, what its prompt gave
before; and when all have gone, the server must hold nothing for them. Prints one JSON line; exits with
1 when that is not so.
"""

import argparse
import asyncio
import collections
import dataclasses
import pathlib
import random
import sys
import time
import urllib.request
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import grpc  # noqa: E402
import soak  # noqa: E402  (makes the stubs that are imported below)
from local_redis import LocalRedis  # noqa: E402
from reprise_client.v1 import (generation_pb2, generation_pb2_grpc, session_pb2,  # noqa: E402
                               session_pb2_grpc)
from server_process import ServerProcess  # noqa: E402
from soak import Violation  # noqa: E402

Code = grpc.StatusCode
CALL_SECONDS = 600      # no call takes that long on any machine, or it hangs
SETTLE_SECONDS = 120    # for the server to notice the last vanished client
CHANNEL_STREAMS = 50    # on one connection
# Small windows, so that a client that does not read is felt.
CHANNEL = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0),
           ("grpc.http2.lookahead_bytes", 4096)]


@dataclasses.dataclass
class Settings:
    streams: int = 500
    seconds: float = 600
    seed: int = 1
    prompts: int = 40       # different beginnings, shared by all
    stall_seconds: float = 3
    lease_seconds: float = 300


class Load:
    def __init__(self, server, settings):
        self.settings = settings
        self.address = server.address
        self._pid = server.pid
        self._end = time.monotonic() + settings.seconds
        self.counts = collections.Counter()
        self.tokens = 0
        self.resident = []
        self._channels = [self.new_channel()
                          for _ in range(-(-settings.streams // CHANNEL_STREAMS))]
        shared = random.Random(settings.seed)
        self.prompts = [self._text(shared, shared.randint(20, 300)) for _ in range(settings.prompts)]
        self._answers = {}

    @staticmethod
    def _text(source, length):
        return [source.randrange(soak.FIRST_TOKEN, soak.VOCABULARY) for _ in range(length)]

    def new_channel(self):
        return grpc.aio.insecure_channel(self.address, options=CHANNEL)

    def channel(self, index):
        return self._channels[index % len(self._channels)]

    @property
    def over(self):
        return time.monotonic() >= self._end

    async def run(self):
        clients = [asyncio.create_task(_Client(self, i).run()) for i in range(self.settings.streams)]
        watch = asyncio.create_task(self._watch())
        try:
            await asyncio.gather(*clients)
        finally:
            for task in [*clients, watch]:
                task.cancel()
            for channel in self._channels:
                await channel.close()

    async def _watch(self):
        while True:
            self.resident.append(soak.resident_bytes(self._pid))
            await asyncio.sleep(1)

    def check_answer(self, prompt, ids):
        """Greedy answers to one prompt are one sequence, however long each is."""
        known = self._answers.setdefault(tuple(prompt), [])
        common = min(len(known), len(ids))
        if known[:common] != ids[:common]:
            raise Violation(f"two answers to one prompt of {len(prompt)} tokens differ")
        if len(ids) > len(known):
            known[:] = ids


class _Client:
    def __init__(self, load, index):
        self._load = load
        self._random = random.Random(f"{load.settings.seed}/{index}")
        self._use(load.channel(index))

    def _use(self, channel):
        self._generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self._sessions = session_pb2_grpc.SessionServiceStub(channel)

    async def run(self):
        actions = [(self.whole, 8), (self.session, 3), (self.cancelled, 3), (self.vanished, 1),
                   (self.stalled, 1), (self.deadline, 3), (self.cancelled_session, 1)]
        while not self._load.over:
            action, = self._random.choices([a for a, _ in actions], [w for _, w in actions])
            await action()
            self._load.counts[action.__name__] += 1

    def _request(self, most=24, **fields):
        prompt = list(self._random.choice(self._load.prompts))
        prompt = prompt[:self._random.randint(1, len(prompt))]
        return generation_pb2.GenerateRequest(
            tokens=generation_pb2.TokenIds(ids=prompt),
            stop=generation_pb2.StopConditions(max_tokens=self._random.randint(1, most),
                                               ignore_eos=True), **fields)

    async def _read(self, call, request, ids, messages=None):
        """Up to so many messages; whether the answer ended."""
        while messages is None or messages > 0:
            response = await call.read()
            if response is grpc.aio.EOF:
                return True
            ids += response.tokens.ids
            self._load.tokens += len(response.tokens.ids)
            messages = None if messages is None else messages - 1
        return False

    def _note(self, error, allowed):
        reason, _ = soak.details(error)
        self._load.counts[f"{error.code().name} {reason}".strip()] += 1
        if error.code() not in allowed:
            raise Violation(f"{error.code().name} {reason}: {error.details()}") from error

    async def _whole(self, request, stateless=True):
        call = self._generation.Generate(request, timeout=CALL_SECONDS)
        ids = []
        try:
            await self._read(call, request, ids)
        except grpc.aio.AioRpcError as error:
            self._note(error, ())
        if len(ids) != request.stop.max_tokens:
            raise Violation(f"{len(ids)} tokens of {request.stop.max_tokens}")
        if stateless:
            self._load.check_answer(request.tokens.ids, ids)

    async def whole(self):
        await self._whole(self._request())

    async def cancelled(self):
        request, ids = self._request(200), []
        call = self._generation.Generate(request, timeout=CALL_SECONDS)
        try:
            await self._read(call, request, ids, self._random.randint(0, 3))
        except grpc.aio.AioRpcError as error:
            self._note(error, ())
        call.cancel()
        self._load.check_answer(request.tokens.ids, ids)

    async def vanished(self):
        """Its connection goes with the call."""
        channel = self._load.new_channel()
        call = generation_pb2_grpc.GenerationServiceStub(channel).Generate(
            self._request(200), timeout=CALL_SECONDS)
        try:
            await self._read(call, None, [], self._random.randint(0, 2))
        except grpc.aio.AioRpcError as error:
            self._note(error, ())
        await channel.close()

    async def stalled(self):
        """Reads nothing for a while; then the rest, or never."""
        request, ids = self._request(150), []
        request.output.top_logprobs = 20
        call = self._generation.Generate(request, timeout=CALL_SECONDS)
        try:
            await self._read(call, request, ids, 1)
            await asyncio.sleep(self._random.uniform(0.2, 2) * self._load.settings.stall_seconds)
            if self._random.random() < 0.5:
                call.cancel()
            else:
                await self._read(call, request, ids)
        except grpc.aio.AioRpcError as error:
            self._note(error, (Code.DEADLINE_EXCEEDED, Code.CANCELLED))
        self._load.check_answer(request.tokens.ids, ids)

    async def deadline(self):
        request, ids = self._request(100), []
        call = self._generation.Generate(request, timeout=self._random.uniform(0.02, 3))
        try:
            await self._read(call, request, ids)
        except grpc.aio.AioRpcError as error:
            # Early, if the server knows that it cannot make it.
            self._note(error, (Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED))
        self._load.check_answer(request.tokens.ids, ids)

    async def _create(self):
        name = f"load-{uuid.uuid4()}"
        return await self._sessions.CreateSession(
            session_pb2.CreateSessionRequest(session_id=name, request_id=name), timeout=CALL_SECONDS)

    async def _delete(self, session, allowed=()):
        while True:
            try:
                await self._sessions.DeleteSession(
                    session_pb2.DeleteSessionRequest(name=session.name), timeout=CALL_SECONDS)
                return
            except grpc.aio.AioRpcError as error:
                self._note(error, allowed)
            await asyncio.sleep(0.2)

    async def session(self):
        try:
            session = await self._create()
            for _ in range(self._random.randint(1, 4)):
                await self._whole(self._request(12, session=session.name), stateless=False)
            await self._delete(session)
        except grpc.aio.AioRpcError as error:
            self._note(error, ())

    async def cancelled_session(self):
        try:
            session = await self._create()
            await self._whole(self._request(12, session=session.name), stateless=False)
            request = self._request(100, session=session.name)
            call = self._generation.Generate(request, timeout=CALL_SECONDS)
            await self._read(call, request, [], self._random.randint(0, 2))
            call.cancel()
        except grpc.aio.AioRpcError as error:
            self._note(error, ())
        # It is busy until the server has noticed and stored what there was.
        await self._delete(session, (Code.ABORTED, Code.FAILED_PRECONDITION, Code.UNAVAILABLE))


class Scene:
    """One server on one Redis, with every tier, and few enough slots that sequences are parked."""

    def __init__(self, model_dir, folder, settings, flags=()):
        self.redis = LocalRedis(folder / "redis")
        self._port_file = folder / "metrics-port"
        self.redis.start()
        self.server = ServerProcess(
            model_dir, folder / "server",
            ["--prefix-cache-bytes", 32 << 20, "--host-cache-bytes", 32 << 20,
             "--prefix-spill-bytes", 16 << 20, "--prefix-share", "on",
             "--lease-seconds", settings.lease_seconds, "--stall-seconds", settings.stall_seconds, "--io-threads", 16,
             "--max-unwritten-tokens", 8, "--max-queued", 4096, "--metrics-listen", "127.0.0.1:0",
             "--metrics-port-file", self._port_file, *flags], self.redis.url)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.stop()
        self.redis.kill()

    def metrics(self):
        """Sums over models, by name."""
        url = f"http://127.0.0.1:{self._port_file.read_text().strip()}/metrics"
        sums = collections.Counter()
        with urllib.request.urlopen(url, timeout=60) as page:
            for line in page.read().decode().splitlines():
                if line and line[0] != "#":
                    name, value = line.rsplit(" ", 1)
                    sums[name.split("{")[0]] += float(value)
        return sums

    def held(self):
        """What the server holds for clients; empty when nothing."""
        now = self.metrics()
        held = {name: now[name] for name in (
            "reprise_requests_running", "reprise_requests_waiting", "reprise_requests_parked",
            "reprise_requests_paused", "reprise_parked_bytes", "reprise_rpc_in_flight",
            "reprise_leases_held", "reprise_write_behind_commits") if now[name] != 0}
        if now["reprise_slots_free"] != now["reprise_slots"] or not now["reprise_slots"]:
            held["slots"] = now["reprise_slots"] - now["reprise_slots_free"]
        sessions = self.redis.do("KEYS", "reprise:1:s:*")
        if sessions:
            held["sessions"] = len(sessions.splitlines())
        return held


async def run(scene, settings):
    """The report; raises Violation."""
    load = Load(scene.server, settings)
    begin = time.monotonic()
    await load.run()
    seconds = time.monotonic() - begin
    give_up = time.monotonic() + SETTLE_SECONDS
    while (held := await asyncio.to_thread(scene.held)) and time.monotonic() < give_up:
        await asyncio.sleep(0.2)
    if held:
        raise Violation(f"nobody is left, and the server holds {held}")
    metrics = scene.metrics()
    return {"streams": settings.streams, "seconds": round(seconds, 1), "calls": dict(load.counts),
            "tokens": load.tokens, "tokens_per_second": round(load.tokens / seconds, 1),
            "parks": metrics["reprise_parks_total"],
            "cached_tokens": metrics["reprise_prefix_cache_hit_tokens_total"],
            **soak.memory_report(load.resident)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path,
                        default=HERE.parents[1] / "models" / "bundled" / "tale-20m")
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lease-seconds", type=float, default=300)
    parser.add_argument("--flag", action="append", default=[], help="of reprised, as --flag=--a=b")
    parser.add_argument("--keep", type=pathlib.Path, help="a new folder for the servers' logs, kept")
    options = parser.parse_args()
    settings = Settings(streams=options.streams, seconds=60 * options.minutes, seed=options.seed,
                        lease_seconds=options.lease_seconds)
    with soak.folder_of_run(options.keep, "reprise-load-") as folder:
        with Scene(options.model, folder, settings, options.flag) as scene:
            return soak.exit_code(run(scene, settings))


if __name__ == "__main__":
    sys.exit(main())
