"""Many rows: blocks that overlap, shards that join, memory that does not grow."""

import json
import threading
from contextlib import nullcontext

import pytest
from refinement_stubs import OUTPUTS, StubEngine, rows_of, run

from raft_fast.engines import Reply
from raft_fast.engines.asking import STREAK, at_once
from raft_fast.refinement import Roles, outputs, pipeline
from raft_fast.run.errors import UserError
from raft_fast.run.progress import Reporter


def roles(judge=lambda text, seed: len(text) % 7 / 6):
    return Roles(StubEngine("writer", lambda text, seed: f"rewrite of {text[-20:]}"),
                 StubEngine("fuser", lambda text, seed: f"fusion {seed} of {text[-20:]}"),
                 [StubEngine("judge", judge)])


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(pipeline, "BLOCK_ROWS", 8)


def refined(folder, rows, **options):
    return run(folder, rows, roles(), given={"total_rows": 50}, **options)


def join(folder, reporter=None):
    return outputs.merge(folder, outputs.finished_shards(folder), reporter or Reporter())


def test_shards_and_blocks_of_any_size_join_into_the_files_of_a_run_over_all_rows(tmp_path, monkeypatch):
    refined(tmp_path / "whole", rows_of(50))
    monkeypatch.setattr(pipeline, "BLOCK_ROWS", 8)
    for number in (3, 1, 2):
        shard = f"{number}/3"
        folder = outputs.shard_folder(tmp_path, shard)
        refined(folder, rows_of(50)[number - 1 :: 3])
        (folder / "config.yaml").write_text(f"data: rows.jsonl\nshard: {shard}\ntau: 0.8\n")
    reporter, steps = Reporter(), []
    monkeypatch.setattr(reporter, "phase", lambda name, total, unit: nullcontext(steps.append))
    join(tmp_path, reporter)
    assert sum(steps) == 50
    for name in OUTPUTS:
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert "shard: null" in (tmp_path / "config.yaml").read_text()


def test_shards_that_do_not_fit_together_are_refused_and_the_difference_named(tmp_path, small_blocks):
    with pytest.raises(UserError, match="has no shards; refine them with --shard 1/n"):
        join(tmp_path)
    first, second = (outputs.shard_folder(tmp_path, f"{number}/2") for number in (1, 2))
    refined(first, rows_of(50)[::2])
    (first / "config.yaml").write_text("model: a\n")
    second.mkdir()
    with pytest.raises(UserError, match="shard 2/2 is not finished"):
        join(tmp_path)
    refined(second, rows_of(50)[1::2])
    (second / "config.yaml").write_text("model: b\n")
    with pytest.raises(UserError, match=r"from .*1-of-2 \(--model is 'a' there and 'b' here\)"):
        join(tmp_path)
    (second / "config.yaml").write_text("model: a\n")
    refined(second, rows_of(50)[1:30:2])
    with pytest.raises(UserError, match="not of the same rows"):
        join(tmp_path)
    refined(second, rows_of(50)[1::2])
    lines = (second / "decisions.jsonl").read_text().splitlines(keepends=True)
    (second / "decisions.jsonl").write_text("".join(lines[:10]))
    with pytest.raises(UserError, match=r"decisions.jsonl of its shards hold 35 rows of 50"):
        join(tmp_path)
    assert not (tmp_path / "refined.parquet").exists()


@pytest.mark.parametrize(("differs", "says"), [
    ({"data": "hash 2"}, "rows of --data is 'hash 1' there and 'hash 2' here"),
    ({"engines": {"rewriter": "writer", "fuser": "another", "judges": ["judge"]}}, "fuser is 'fuser' there"),
    ({"prompts": {"rewrite": "a", "fuse": "b", "judge": "c"}}, "rewrite.txt is"),
])
def test_shards_of_other_rows_models_or_prompts_are_refused_and_other_addresses_are_not(
        tmp_path, differs, says):
    for number, host in ((1, "a"), (2, "b")):
        folder = outputs.shard_folder(tmp_path, f"{number}/2")
        run(folder, rows_of(20)[number - 1 :: 2], roles(), given={"total_rows": 20, "data": "hash 1"})
        (folder / "config.yaml").write_text(f"data: {host}/rows.jsonl\nfuser: fuser@http://{host}/v1\n")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | differs))
    with pytest.raises(UserError, match=says):
        join(tmp_path)
    (folder / "summary.json").write_text(json.dumps(summary))
    assert join(tmp_path)["finished"]


def test_a_judge_that_dies_in_the_middle_stops_the_run_and_is_quoted(tmp_path, small_blocks):
    calls = threading.Semaphore(20)

    def dies(text, seed):
        return 0.9 if calls.acquire(blocking=False) else Reply("", error="out of memory 17")

    judge = StubEngine("dying", dies)
    mixed = Roles(roles().rewriter, roles().fuser, [StubEngine("well", lambda text, seed: 0.9), judge])
    with pytest.raises(UserError, match=f"--judge dying: the last {STREAK} replies .*memory 17"):
        run(tmp_path, rows_of(1000), mixed, fusion_rounds=1, quorum=1)
    assert len(judge.asked) < 20 + STREAK + 8 * pipeline.BLOCKS_AT_ONCE  # far from 1000
    assert not (tmp_path / "refined.parquet").exists()


def test_no_more_is_begun_than_memory_is_meant_to_hold():
    begun, first = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            first.wait(10)
        return item

    results = at_once(work, range(100), 3, lambda: None)
    thread = threading.Thread(target=lambda: results.__next__())
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()  # the first one is not done
    assert len(begun) <= 6
    first.set()
    thread.join(10)
