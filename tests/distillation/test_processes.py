"""Two processes against one: the same losses, λ and weights, copied (DDP) or in parts (FSDP2); and where one
of them fails, is stopped or is signalled, both end, soon, and with the reason."""

import json
import multiprocessing
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from two_processes import fail, run, work

from raft_fast.distillation import planning, rows_per_step
from raft_fast.run.errors import UserError
from raft_fast.run.option import pinned_by
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes

ONE = TrainOptions(per_device_train_batch_size=4, num_train_epochs=2, teacher_top_k=16, learning_rate=1e-3,
                   max_completion_length=8, save_steps=2, steps_per_generation=2, save_total_limit=9)
CUT = replace(ONE, per_device_train_batch_size=1, gradient_accumulation_steps=4)  # λ of the step before
SAME = ("loss", "sft_loss", "kl_loss", "lambda", "lambda_exact", "teacher_mass", "grad_norm", "tokens",
        "trajectories", "trajectory_tokens")
CASES = {"exact": ONE, "cut": CUT, "gradient": replace(ONE, balance="gradient")}


def halved(options, how):
    """The same step on two processes."""
    half = {"gradient_accumulation_steps": 2} if options is CUT else {"per_device_train_batch_size": 2}
    return replace(options, **half, parallelism=how)


def both(target, *given):
    """The exit codes of two processes that do `target`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["two_processes"])
    workers = [context.Process(target=target, args=(rank, *given)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
        worker.kill()
        worker.join()
    return [worker.exitcode for worker in workers]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Every scenario, by one process and by each of two."""
    folder = tmp_path_factory.mktemp("processes")
    one = {name: run(folder / f"one-{name}", options, tied=name == "exact")
           for name, options in CASES.items()}
    scenarios = {}
    for how in ("ddp", "fsdp2"):
        for name, options in CASES.items():
            scenarios[f"{how} {name}"] = (f"{how}-{name}", {"options": halved(options, how),
                                                            "tied": name == "exact"})
        shutil.copytree(folder / "one-cut", folder / f"{how}-resumed")
        shutil.rmtree(folder / f"{how}-resumed/checkpoints/step-000004")
        scenarios[f"{how} resumed"] = (f"{how}-resumed", {"options": halved(CUT, how)})
    assert both(work, folder, scenarios) == [0, 0]
    return folder, one, [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]


def assert_same(found, want):
    """Within what λ's float32 losses round, of each loss and of the way of each weight."""
    assert not isinstance(found, str), found
    assert len(found["metrics"]) == len(want["metrics"]) == 4
    for ours, theirs in zip(found["metrics"], want["metrics"], strict=True):
        assert {key: ours[key] for key in SAME} == pytest.approx({key: theirs[key] for key in SAME}, rel=1e-6)
    for name, weight in want["weights"].items():
        way = (weight - want["start"][name]).norm()
        assert (found["weights"][name] - weight).norm() <= 1e-5 * way, name


@pytest.mark.parametrize("name", [*CASES, "resumed"])
@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_processes_are_one(results, how, name):
    """`resumed`: from one process's checkpoint in the middle of the run."""
    _, one, two = results
    for process in two:
        assert_same(process[f"{how} {name}"], one["cut" if name == "resumed" else name])


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_one_process_goes_on_where_two_stopped(results, how, tmp_path):
    """With options that a run takes when it goes on: as one pass the same λ, with those of each of the two a
    step of two passes, whose λ comes from the step before."""
    folder, one, _ = results
    stopped = shutil.copytree(folder / f"{how}-exact", tmp_path / "stopped")
    shutil.rmtree(stopped / "checkpoints/step-000004")
    shutil.copytree(stopped, tmp_path / "same")
    two = halved(ONE, how)
    changed = {name for name, value in vars(ONE).items() if value != getattr(two, name)}
    assert changed <= pinned_by([TrainOptions], "nothing")
    assert_same(run(stopped, ONE, tied=True), one["exact"])
    late = run(tmp_path / "same", two, tied=True)["metrics"]
    assert [line["lambda_exact"] for line in late] == [True, True, False, False]
    assert [line["tokens"] for line in late[:3]] == [line["tokens"] for line in one["exact"]["metrics"][:3]]


def test_other_rows_a_step_are_refused(tmp_path, monkeypatch):
    """Those of before are taken on any number of processes, and so is another cut of as many rows."""
    run(tmp_path, replace(ONE, max_steps=2))
    for processes, rows, passes, taken in ((1, 3, 1, False), (1, 8, 1, False), (1, 2, 2, True),
                                           (2, 4, 1, True), (2, 4, 2, False), (2, 2, 1, True)):
        monkeypatch.setattr(planning, "Processes",
                            lambda size=processes: SimpleNamespace(size=size, first=lambda work: work()))
        asked = replace(ONE, per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
        if taken:
            assert rows_per_step(asked, tmp_path) == 4
            continue
        both = "--per_device_train_batch_size {} --gradient_accumulation_steps {}"
        with pytest.raises(UserError, match=f"^{both.format(rows, passes)}: .* began: {both.format(4, 1)}$"):
            rows_per_step(asked, tmp_path)


def test_what_processes_tell_each_other(results):
    """An error of the first process ends the others, which have nothing to add."""
    for rank, error in enumerate(["ValueError('of the first process')", "SystemExit(1)"]):
        assert results[2][rank]["talk"] == (0, error, list("abcde"), [rank], 3.0)


def test_alone_nothing_is_asked_of_anybody():
    processes = Processes()
    assert (processes.rank, processes.size, processes.is_first) == (0, 1, True)
    assert processes.first(lambda: 3) == processes.first_then_others(lambda: 3) == 3
    assert processes.collect(processes.deal("abc")[0]) == list("abc")


@pytest.mark.parametrize(("what", "ended", "last"), [
    # it used to go on from the one before, alone
    ("checkpoint", [["SystemExit", "1", None], ["UserError", "step-000004: cannot be read here ([Errno 5] "
                                                "Input/output error)", None]], 4),
    ("sample", [["SystemExit", "1", None], ["UserError", "the engine of process 1", None]], None),
    ("stop", [["ended"], ["ended"]], 1),
    # sent twice: launchers pass on what the system has delivered already
    ("signal", [["Stopped", "step 2 of 4", 143], ["SystemExit", "143", None]], 2)])
def test_what_happens_to_one_process_ends_both(tmp_path, what, ended, last):
    if what == "checkpoint":
        run(tmp_path, ONE)
    both(fail, tmp_path, replace(ONE, per_device_train_batch_size=2, steps_per_generation=1), what)
    for rank, want in enumerate(ended):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert (found[0], found[2:]) == (want[0], want[2:])
        assert all(said in found[1] for said in want[1:2])
    saved = sorted(path.name for path in (tmp_path / "checkpoints").glob("*"))
    assert saved[-1:] == ([f"step-{last:06d}"] if last else [])
