#!/usr/bin/env python3
"""Sets the scene for soak.py: two servers on one Redis, over TLS, with tokens and quotas, and what
happens to them.

    soak_run.py [--clients 200] [--minutes 30] [--fault-seconds 30] [--seed 1]

Prints one JSON line; exits with 1 when a promise was broken.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import random
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import grpc  # noqa: E402
import grpc.aio  # noqa: E402
import soak  # noqa: E402
from local_redis import LocalRedis  # noqa: E402
from redis_process import free_port  # noqa: E402
from server_process import BUILD, ServerProcess  # noqa: E402

# To whichever server says that it is well.
_CHANNEL = [("grpc.service_config", json.dumps({
    "loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})),
            ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "soak.test")]


_TENANTS = ["first", "second", "third", "limited"]


class Scene:
    """`steady` lives through all of it; `shaken` is killed or stopped now and then, as Redis is."""

    def __init__(self, model_dir, folder, settings):
        self._settings = settings
        self._random = random.Random(settings.seed)
        self.faults = collections.Counter()
        self.resident = []  # of the steady server
        with contextlib.ExitStack() as stack:
            self.redis = stack.enter_context(LocalRedis(folder / "redis"))
            # Caches that are soon full, so that what grows on is a leak.
            flags = [*self._secure(folder), "--lease-seconds", 2, "--store-timeout-seconds", 5, "--io-threads", 16,
                     "--prefix-cache-bytes", 32 << 20, "--host-cache-bytes", 32 << 20]
            self.steady = stack.enter_context(ServerProcess(
                model_dir, folder / "steady", flags, self.redis.url, free_port()))
            self.shaken = stack.enter_context(ServerProcess(
                model_dir, folder / "shaken", flags, self.redis.url, free_port()))
            self._stack = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._stack.close()

    def _secure(self, folder):
        """Flags for a certificate of our own, and for a token per tenant. One has little to spend."""
        certificate, key = folder / "server.pem", folder / "server.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                        "/CN=soak", "-addext", "subjectAltName=DNS:soak.test", "-keyout", key, "-out",
                        certificate], check=True, capture_output=True)
        self._credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        self._tokens = [subprocess.run(
            [BUILD / "service" / "reprised", "token", "--id", tenant, "--tenant", tenant, "--file",
             folder / "tokens"], check=True, capture_output=True, text=True).stdout.strip()
                        for tenant in _TENANTS]
        (folder / "tenants.json").write_text(json.dumps(
            {"unlisted": "refuse", "tenants": {tenant: {} for tenant in _TENANTS} | {
                "limited": {"requests_per_second": max(4, self._settings.clients / 10),
                            "request_burst": 1}}}))
        return ["--profile", "production", "--tls-cert", certificate, "--tls-key", key,
                "--token-file", folder / "tokens", "--tenants-file", folder / "tenants.json"]

    def connect(self, index):
        """A client's channel, metadata, and the reasons that only its tenant may hear."""
        tenant = index % len(_TENANTS)
        target = f"ipv4:{self.steady.address},{self.shaken.address}"
        return (grpc.aio.secure_channel(target, self._credentials, options=_CHANNEL),
                (("authorization", f"Bearer {self._tokens[tenant]}"),),
                {"QUOTA_EXCEEDED"} if _TENANTS[tenant] == "limited" else set())

    async def shake(self, end):
        """Faults until `end`; all is up again when it returns."""
        while time.monotonic() < end:
            pause = self._settings.fault_seconds * self._random.uniform(0.5, 1.5)
            await self._watch(min(end, time.monotonic() + pause))
            if time.monotonic() >= end:
                return
            fault = self._random.choice([self._kill_server, self._stop_server, self._kill_redis])
            await fault()
            self.faults[fault.__name__.strip("_")] += 1

    async def _watch(self, until):
        while time.monotonic() < until:
            self.resident.append(soak.resident_bytes(self.steady.pid))
            await asyncio.sleep(min(1.0, max(0.0, until - time.monotonic())))

    async def _kill_server(self):
        await asyncio.to_thread(self.shaken.kill)
        await asyncio.sleep(self._random.uniform(0, 3))
        await asyncio.to_thread(self.shaken.start)

    async def _stop_server(self):
        code = await asyncio.to_thread(self.shaken.stop)
        if code != 0:
            raise soak.Violation(f"reprised ended with {code} after SIGTERM")
        await asyncio.to_thread(self.shaken.start)

    async def _kill_redis(self):
        await asyncio.to_thread(self.redis.kill)
        await asyncio.sleep(self._random.uniform(0, 3))
        await asyncio.to_thread(self.redis.start)


async def run(scene, settings):
    """The report; raises soak.Violation."""
    work = soak.Soak(settings, scene.connect)
    await work.run(scene.shake if settings.fault_seconds else None)
    await work.check_sessions()
    return {"actions": dict(work.counts), "errors": dict(work.errors), "faults": dict(scene.faults),
            **soak.memory_report(scene.resident)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path,
                        default=HERE.parents[1] / "models" / "bundled" / "tale-draft-2m")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--fault-seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path, help="a new folder for the servers' logs, kept")
    options = parser.parse_args()
    settings = soak.Settings(clients=options.clients, seconds=60 * options.minutes,
                             seed=options.seed, fault_seconds=options.fault_seconds)
    with soak.folder_of_run(options.keep, "reprise-soak-") as folder:
        with Scene(options.model, folder, settings) as scene:
            return soak.exit_code(run(scene, settings))


if __name__ == "__main__":
    sys.exit(main())
