"""Many clients, two servers, one Redis, and what goes wrong in between.

Each client owns sessions that nobody else touches, so that it knows what each must contain: it keeps
every prompt and answer, repeats what failed under the same request id, and asks what became of a turn
whose end it did not see. At the end every session is held against a computation of its own.
soak_run.py sets the scene and runs it.
"""

import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import statistics
import sys
import tempfile
import time
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "clients" / "python"),
                str(HERE.parents[1] / "clients" / "python" / "src")]

import generate_stubs  # noqa: E402

generate_stubs.generate()

import grpc  # noqa: E402
from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from reprise_client.v1 import (generation_pb2, generation_pb2_grpc, session_pb2,  # noqa: E402
                               session_pb2_grpc)

VOCABULARY = 400  # ids that every model under test has; control tokens are below the first
FIRST_TOKEN = 10
GIVE_UP_SECONDS = 300  # for one turn with all its tries
STALE_SECONDS = 20     # longer than Redis is ever away


class Violation(Exception):
    """The servers broke a promise."""


def details(error):
    """ErrorInfo.reason and RetryInfo seconds of a failed call."""
    reason, delay = "", None
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for any_detail in status_pb2.Status.FromString(value).details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if any_detail.Unpack(info):
                reason = info.reason
            elif any_detail.Unpack(retry):
                delay = retry.retry_delay.seconds + 1e-9 * retry.retry_delay.nanos
    return reason, delay


@dataclasses.dataclass
class Turn:
    prompt: list
    answered: int  # tokens; the answers are greedy, so that their number says which
    seen: list     # a beginning of the answer


@dataclasses.dataclass
class KnownSession:
    name: str
    version: int
    tokens: int = 0
    turns: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Settings:
    clients: int = 200
    seconds: float = 1800
    seed: int = 1
    sessions_per_client: int = 2
    fault_seconds: float = 30  # between two faults; 0: none
    # Codes that clients may see because of what is injected.
    expected: tuple = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED,
                       grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED)


class Soak:
    """`connect(i)` gives client i a channel to both servers, its metadata, and its quota's reasons,
    which nobody else may hear."""

    def __init__(self, settings, connect):
        self.settings = settings
        self._connect = connect
        self._end = 0.0
        self.counts = collections.Counter()
        self.errors = collections.Counter()
        self.sessions = []

    async def run(self, faults=None):
        self._end = time.monotonic() + self.settings.seconds
        clients = [asyncio.create_task(_Client(self, i).run()) for i in range(self.settings.clients)]
        side = asyncio.create_task(faults(self._end)) if faults else None
        try:
            await asyncio.gather(*clients)
        finally:
            for task in clients:
                task.cancel()
            if side is not None:
                await side

    @property
    def over(self):
        return time.monotonic() >= self._end

    def connect(self, index):
        return self._connect(index)

    def note(self, error, quota_reasons):
        """Counts an error, and raises if nothing that was done on purpose explains it."""
        reason, delay = details(error)
        self.errors[f"{error.code().name} {reason}".strip()] += 1
        if error.code() == grpc.StatusCode.CANCELLED and not reason:
            return reason, delay  # gRPC's own word for a server that was closing (docs/api.md)
        if (error.code() not in self.settings.expected
                or reason == "QUOTA_EXCEEDED" and reason not in quota_reasons):
            raise Violation(f"{error.code().name} {reason}: {error.details()}") from error
        return reason, delay

    async def check_sessions(self):
        """Each session against what a server computes that starts from nothing."""
        for index, sessions in self.sessions:
            client = _Client(self, index)
            try:
                for known in sessions:
                    await client.check(known)
                    self.counts["sessions checked"] += 1
            finally:
                await client.close()


class _Client:
    def __init__(self, soak, index):
        self._soak = soak
        self._index = index
        self._random = random.Random(f"{soak.settings.seed}/{index}")
        self._channel, self._metadata, self._quota_reasons = soak.connect(index)
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._sessions = session_pb2_grpc.SessionServiceStub(self._channel)

    async def close(self):
        await self._channel.close()

    async def run(self):
        owned = []
        self._soak.sessions.append((self._index, owned))
        actions = [(self._turn, 12), (self._cancelled_turn, 3), (self._passing_by, 4),
                   (self._fork, 1), (self._look, 2), (self._replace, 1)]
        try:
            while not self._soak.over:
                if len(owned) < self._soak.settings.sessions_per_client:
                    owned.append(await self._create())
                    continue
                action, = self._random.choices([a for a, _ in actions], [w for _, w in actions])
                await action(owned, self._random.choice(owned))
                self._soak.counts[action.__name__.strip("_")] += 1
        finally:
            await self.close()

    # One call, again until it is answered.

    async def _insist(self, call, request, allowed=()):
        """The answer, or the reason when it is one of `allowed`."""
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                return await call(request, timeout=20, metadata=self._metadata), ""
            except grpc.aio.AioRpcError as error:
                reason, _ = details(error)
                if reason in allowed:
                    return None, reason
                _, delay = self._soak.note(error, self._quota_reasons)
                if time.monotonic() > give_up:
                    raise Violation(f"no answer for {GIVE_UP_SECONDS} s: {error.details()}") from error
                await self._pause(delay)

    async def _pause(self, delay):
        await asyncio.sleep(min(delay or 0.2, 5.0) * self._random.uniform(0.8, 1.5))

    async def _create(self):
        name = f"soak-{self._index}-{uuid.uuid4()}"
        session, _ = await self._insist(
            self._sessions.CreateSession,
            session_pb2.CreateSessionRequest(session_id=name, request_id=name))
        return KnownSession(session.name, session.version)

    # Turns.

    def _request(self, known, most=12):
        return generation_pb2.GenerateRequest(
            tokens=generation_pb2.TokenIds(ids=self._prompt()),
            session=known.name, session_version=known.version,
            request_id=str(uuid.uuid4()),
            stop=generation_pb2.StopConditions(max_tokens=self._random.randint(1, most),
                                               ignore_eos=True),
            durability=generation_pb2.DURABILITY_SYNC)

    def _prompt(self):
        return [self._random.randint(FIRST_TOKEN, VOCABULARY - 1)
                for _ in range(self._random.randint(1, 30))]

    async def _stream(self, request, stop_after=None, timeout=30):
        """Tokens seen, and the last message or None when the stream was cancelled on purpose."""
        seen = []
        self._logprobs = []  # of the last stream
        call = self._generation.Generate(request, timeout=timeout, metadata=self._metadata)
        async for event in call:
            if event.HasField("finished"):
                return seen, event.finished
            seen.extend(event.tokens.ids)
            self._logprobs.extend(entry.logprob for entry in event.tokens.logprobs)
            if stop_after is not None and len(seen) >= stop_after:
                call.cancel()
                return seen, None
        raise Violation("a stream ended without a last message")

    async def _turn(self, _, known):
        await self._complete(known, self._request(known))

    async def _complete(self, known, request):
        """Until the turn is committed, once."""
        give_up = time.monotonic() + GIVE_UP_SECONDS
        seen = []
        while True:
            try:
                now, finished = await self._stream(request)
                if len(now) > len(seen):
                    seen = now
                self._accept(known, request, finished.commit, seen)
                return
            except grpc.aio.AioRpcError as error:
                reason, _ = details(error)
                if reason == "VERSION_MISMATCH":
                    # Only an earlier try of this very turn can have moved it.
                    self._soak.counts["asked for the outcome"] += 1
                    commit = await self._outcome(known, request)
                    if commit is None:
                        raise Violation(f"{known.name}: {error.details()}, but not by us") from error
                    self._accept(known, request, commit, seen)
                    return
                _, delay = self._soak.note(error, self._quota_reasons)
                if time.monotonic() > give_up:
                    raise Violation(f"{known.name}: no end of a turn for {GIVE_UP_SECONDS} s: "
                                    f"{error.details()}") from error
                await self._pause(delay)

    async def _outcome(self, known, request):
        commit, _ = await self._insist(
            self._sessions.GetCommit,
            session_pb2.GetCommitRequest(session=known.name, request_id=request.request_id),
            allowed=("COMMIT_NOT_FOUND",))
        return commit

    @staticmethod
    def _accept(known, request, commit, seen):
        prompt = list(request.tokens.ids)
        answered = commit.committed_tokens - len(prompt)
        if commit.version != known.version + 1:
            raise Violation(f"{known.name}: version {commit.version} after {known.version}")
        if not 0 <= answered <= request.stop.max_tokens:
            raise Violation(f"{known.name}: {answered} tokens of at most {request.stop.max_tokens}")
        if commit.token_count != known.tokens + commit.committed_tokens:
            raise Violation(f"{known.name}: {commit.token_count} tokens after {known.tokens} and "
                            f"{commit.committed_tokens} more")
        known.version, known.tokens = commit.version, commit.token_count
        known.turns.append(Turn(prompt, answered, seen[:answered]))

    async def _cancelled_turn(self, _, known):
        """Breaks its stream off, then finds out what the session keeps of it."""
        request = self._request(known, most=40)
        seen = []
        try:
            seen, finished = await self._stream(
                request, stop_after=self._random.randint(1, request.stop.max_tokens))
        except grpc.aio.AioRpcError as error:
            self._soak.note(error, self._quota_reasons)
            finished = None
        if finished is not None:
            self._accept(known, request, finished.commit, seen)
            return
        # The next turn gets the session only when the first has let go of it.
        after = self._request(known)
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                told, finished = await self._stream(after)
                self._accept(known, after, finished.commit, told)
                return
            except grpc.aio.AioRpcError as error:
                reason, _ = details(error)
                if reason == "VERSION_MISMATCH":
                    commit = await self._outcome(known, request)
                    if commit is not None:
                        self._accept(known, request, commit, seen)
                        return
                    # Then it was an earlier try of the second.
                    await self._complete(known, after)
                    return
                _, delay = self._soak.note(error, self._quota_reasons)
                if time.monotonic() > give_up:
                    raise Violation(f"{known.name} stays busy: {error.details()}") from error
                await self._pause(delay)

    # The rest.

    async def _passing_by(self, *_):
        """Without a session; some vanish, some have no time."""
        request = generation_pb2.GenerateRequest(
            tokens=generation_pb2.TokenIds(ids=self._prompt()),
            sampling=generation_pb2.SamplingParams(temperature=1.0),
            stop=generation_pb2.StopConditions(max_tokens=self._random.randint(1, 60),
                                               ignore_eos=True))
        stop_after = self._random.choice([None, 1, 5])
        timeout = self._random.choice([30, 30, 0.05])
        try:
            await self._stream(request, stop_after, timeout)
        except grpc.aio.AioRpcError as error:
            _, delay = self._soak.note(error, self._quota_reasons)
            await self._pause(delay)

    async def _fork(self, _, known):
        if known.tokens == 0:
            return
        name = f"soak-fork-{uuid.uuid4()}"
        fork, _ = await self._insist(
            self._sessions.ForkSession,
            session_pb2.ForkSessionRequest(source=known.name, session_id=name, request_id=name))
        if fork.token_count != known.tokens:
            raise Violation(f"a fork of {known.name} has {fork.token_count} tokens of {known.tokens}")
        copy = KnownSession(fork.name, fork.version, fork.token_count, list(known.turns))
        await self._turn(None, copy)
        await self.check(copy)
        await self._delete(copy)

    async def _look(self, _, known):
        give_up = time.monotonic() + STALE_SECONDS
        while True:
            session, _ = await self._insist(self._sessions.GetSession,
                                            session_pb2.GetSessionRequest(name=known.name))
            found = (session.version, session.token_count)
            if found == (known.version, known.tokens):
                return
            # While a server is cut off from Redis it may tell what it knew before (docs/durability.md).
            if found[0] > known.version or time.monotonic() > give_up:
                raise Violation(f"{known.name}: version {found[0]} with {found[1]} tokens; known: "
                                f"{known.version} with {known.tokens}")
            self._soak.counts["older reads"] += 1
            await self._pause(None)

    async def _replace(self, owned, known):
        await self.check(known)
        await self._delete(known)
        owned.remove(known)

    async def _delete(self, known):
        # A repeat of a deletion that was done finds nothing.
        await self._insist(self._sessions.DeleteSession,
                           session_pb2.DeleteSessionRequest(name=known.name),
                           allowed=("SESSION_NOT_FOUND",))

    async def _greedy(self, tokens, count):
        """`count` tokens after `tokens`, computed from nothing."""
        request = generation_pb2.GenerateRequest(
            tokens=generation_pb2.TokenIds(ids=tokens), no_prefix_cache=True,
            output=generation_pb2.OutputOptions(logprobs=True),
            stop=generation_pb2.StopConditions(max_tokens=count, ignore_eos=True))
        while True:
            try:
                seen, finished = await self._stream(request)
                # A drain may have ended it early.
                if len(seen) == count:
                    return seen
            except grpc.aio.AioRpcError as error:
                _, delay = self._soak.note(error, self._quota_reasons)
                await self._pause(delay)

    async def check(self, known):
        """That the session stands where it must and goes on as its tokens say."""
        await self._look(None, known)
        tokens = []
        for turn in known.turns:
            tokens += turn.prompt
            if turn.answered:
                answer = await self._greedy(tokens, turn.answered)
                if answer[:len(turn.seen)] != turn.seen:
                    raise Violation(f"{known.name}: an answer that differs from its computation")
                tokens += answer
        if len(tokens) != known.tokens:
            raise Violation(f"{known.name}: {known.tokens} tokens, of which {len(tokens)} are known")
        probe = self._request(known)
        probe.output.logprobs = True
        await self._complete(known, probe)
        last, found = known.turns[-1], self._logprobs
        expected = await self._greedy(tokens + last.prompt, max(1, last.answered))
        # To the bit. Fewer, if the end had to be asked for.
        if (expected[:len(last.seen)] != last.seen
                or self._logprobs[:len(found)] != found[:last.answered]):
            raise Violation(f"{known.name}: its state does not go on as its tokens do")


def resident_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    return 0


def growth(samples):
    """Last third against the middle one: what a warm server still gains."""
    third = len(samples) // 3
    if third == 0:
        return 0
    return statistics.median(samples[-third:]) - statistics.median(samples[third:2 * third])


def memory_report(samples):
    """Of resident bytes, taken at equal distances."""
    some = samples[::max(1, len(samples) // 20)]
    return {"resident_mib": [round(b / 2**20, 1) for b in some],
            "growth_mib": round(growth(samples) / 2**20, 1)}


@contextlib.contextmanager
def folder_of_run(keep, prefix):
    """`keep`, made and left behind, or a temporary one."""
    if keep:
        keep.mkdir(parents=True)
        yield keep.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix=prefix) as folder:
            yield pathlib.Path(folder)


def exit_code(work):
    """Runs the coroutine and prints its report, or which promise was broken."""
    try:
        print(json.dumps(asyncio.run(work)))
    except Violation as violation:
        print(f"broken: {violation}", file=sys.stderr)
        return 1
    return 0
