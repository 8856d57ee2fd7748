"""Calls of every kind, so that all metrics of a server move."""

import contextlib
import threading

import reprise_client

STORY = ("Once upon a time there was a keeper of a lighthouse who wrote down every ship that passed, "
         "and on the shelf behind him stood the books of all the years in which he had done so. ")


class Load:
    """Threads that call `server` until the with block ends: turns of sessions, some of which are
    forked and checkpointed, prompts that begin alike, calls that fail, calls that are cancelled.
    Loads of one server at the same time need names that differ."""

    def __init__(self, server, threads=6, name="load"):
        self._name = name
        self._address = server.address
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True)
                         for number in range(threads)]
        self.errors = []

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        if self.errors and exc[0] is None:
            raise self.errors[0]

    def _run(self, number):
        try:
            with reprise_client.Client(self._address) as client:
                turn = 0
                while not self._stop.is_set():
                    self._round(client, number, turn)
                    turn += 1
        except Exception as error:  # a test that goes on without load would wait in vain
            self.errors.append(error)

    def _round(self, client, number, turn):
        session = f"{self._name}-{number}-{turn}"
        client.create_session(session)
        for durability in ("async", "sync", "every_n_tokens"):
            options = {"checkpoint_tokens": 4} if durability == "every_n_tokens" else {}
            client.generate(STORY, session=session, max_tokens=12, ignore_eos=True,
                            durability=durability, request_id=durability, **options).result()
        branch = session + "-fork"
        client.fork(session, branch)
        client.generate("But then", session=branch, max_tokens=4, ignore_eos=True).result()
        client.generate(STORY + "One evening", max_tokens=4, ignore_eos=True).result()
        with contextlib.suppress(reprise_client.NotFound):
            client.generate("x", session=f"{self._name}-nobody-{number}", max_tokens=1).result()
        with contextlib.suppress(reprise_client.Cancelled):
            generation = client.generate(STORY, max_tokens=5000, ignore_eos=True)
            for _ in generation:
                generation.cancel()
        for name in (branch, session):
            client.delete_session(name)
