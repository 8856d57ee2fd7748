"""--memory-bytes on the CPU: what is planned before anything is loaded is what the process comes to take,
and a server that would take more does not start."""

import concurrent.futures
import pathlib
import re
import subprocess

import pytest
import reprise_client
from server_process import BUILD, ServerProcess

CACHE = 24_000_000
SLOTS = 8
# Of each model beside its weights, slots and steps; requests are small here.
FLAGS = ["--slots", SLOTS, "--prefix-cache-bytes", CACHE, "--prefix-spill-bytes", 0,
         "--max-request-bytes", 1_000_000, "--max-parked-bytes", 0]


def planned(server):
    found = re.search(r"memory: (\d+) bytes on the host", server.log.read_text())
    return int(found.group(1))


def anonymous_bytes(server):
    status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status).group(1))


def use_it_all(server, models):
    """Holds all slots of each model at once, and fills its prefix cache."""
    long = "It was a dark and stormy night. " * 40
    with reprise_client.Client(server.address) as client:
        for model in models:
            with concurrent.futures.ThreadPoolExecutor(SLOTS) as pool:
                list(pool.map(lambda i: client.generate(f"{i} {long}", model=model, max_tokens=64,
                                                        ignore_eos=True).result(), range(SLOTS)))
            for i in range(60):
                client.generate(f"Number {i} is a number.", model=model, max_tokens=1).result()


def test_the_plan_is_what_the_process_takes(model_dir, tmp_path):
    taken, plan = {}, {}
    for models in (1, 2, 3):
        extra = [f for i in range(1, models) for f in ("--model", f"more{i}={model_dir}")]
        with ServerProcess(model_dir, tmp_path / str(models), [*FLAGS, *extra]) as server:
            use_it_all(server, ["test", "more1", "more2"][:models])
            taken[models], plan[models] = anonymous_bytes(server), planned(server)
    # The process itself, its threads and the store's index are the same in all; what a model adds
    # beyond the plan is its tokenizer.
    for more in (2, 3):
        predicted, measured = plan[more] - plan[1], taken[more] - taken[1]
        print(f"{more - 1} models more: {predicted} bytes planned, {measured} taken")
        assert 0.8 * predicted < measured < 1.1 * predicted
    assert taken[3] < plan[3] + 100_000_000


def test_a_server_that_would_need_more_does_not_start(model_dir, tmp_path):
    with ServerProcess(model_dir, tmp_path / "free", FLAGS) as server:
        needed = planned(server)
    with ServerProcess(model_dir, tmp_path / "just", [*FLAGS, "--memory-bytes", needed]) as server:
        assert planned(server) == needed
    done = subprocess.run(
        [str(BUILD / "service" / "reprised"), "--model", f"test={model_dir}", "--listen",
         "127.0.0.1:0", "--store", f"disk:{tmp_path / 'none'}",
         *map(str, FLAGS), "--memory-bytes", str(needed - 1)], capture_output=True, text=True,
        timeout=60)
    assert done.returncode == 1
    assert f"--memory-bytes: {needed - 1} bytes are not enough, {needed} are needed" in done.stderr
    for part in ["of weights of model test", f"of {SLOTS} --slots of model test",
                 "of --prefix-cache-bytes of model test"]:
        assert part in done.stderr
    assert not (tmp_path / "none").exists()


def test_slots_that_nobody_chose_fit_into_the_budget(model_dir, tmp_path):
    flags = ["auto" if flag == SLOTS else flag for flag in FLAGS]
    with ServerProcess(model_dir, tmp_path / "free", flags) as server:
        whole = planned(server)
        with reprise_client.Client(server.address) as client:
            state = client.list_models()[0].state_bytes
    budget = whole - 20 * state
    with ServerProcess(model_dir, tmp_path / "less", [*flags, "--memory-bytes", budget]) as server:
        assert budget - 2 * state < planned(server) <= budget
        (slots,) = re.findall(r", (\d+) slots, ", server.log.read_text())
        assert int(slots) == 32 - 20
        with reprise_client.Client(server.address) as client:
            assert client.generate("Once upon", max_tokens=4).result().ids


@pytest.mark.parametrize("flags, named", [
    (["--memory-bytes", 10**9, "--store", "memory"], "--store-max-bytes"),
    (["--device", "cpu", "--device-memory-bytes", 10**9], "--device-memory-bytes"),
])
def test_what_cannot_be_planned_is_named(model_dir, tmp_path, flags, named):
    done = subprocess.run([str(BUILD / "service" / "reprised"), "--model", f"test={model_dir}",
                           "--listen", "127.0.0.1:0", *map(str, flags)], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 1 and f"{named}: " in done.stderr
