"""Many rows: blocks that overlap, shards that join, memory that does not grow."""

import threading
from contextlib import nullcontext

import pytest
import yaml
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


def test_shards_and_blocks_of_any_size_join_into_the_files_of_a_run_over_all_rows(tmp_path, monkeypatch):
    refined(tmp_path / "whole", rows_of(50))
    monkeypatch.setattr(pipeline, "BLOCK_ROWS", 8)
    for number in (3, 1, 2):
        shard = f"{number}/3"
        folder = outputs.shard_folder(tmp_path, shard)
        refined(folder, rows_of(50)[number - 1 :: 3])
        (folder / "config.yaml").write_text(f"data: rows.jsonl\nshard: {shard}\ntau: 0.8\n")
    assert outputs.unfinished(tmp_path) == []
    reporter, steps = Reporter(), []
    monkeypatch.setattr(reporter, "phase", lambda name, total, unit: nullcontext(steps.append))
    outputs.merge(tmp_path, reporter)
    assert sum(steps) == 50
    for name in OUTPUTS:
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert "shard: null" in (tmp_path / "config.yaml").read_text()


def test_shards_that_do_not_fit_together_are_refused_and_the_difference_named(tmp_path, small_blocks):
    with pytest.raises(UserError, match="has no shards; refine them with --shard 1/n"):
        outputs.merge(tmp_path, Reporter())
    first, second = (outputs.shard_folder(tmp_path, f"{number}/2") for number in (1, 2))
    refined(first, rows_of(50)[::2])
    (first / "config.yaml").write_text("model: a\n")
    second.mkdir()
    with pytest.raises(UserError, match="shard 2/2 is not finished"):
        outputs.merge(tmp_path, Reporter())
    refined(second, rows_of(50)[1::2], tau=0.7)
    (second / "config.yaml").write_text("model: b\n")
    with pytest.raises(UserError, match=r"--model b, and .*1-of-2 with a;"):
        outputs.merge(tmp_path, Reporter())
    (second / "config.yaml").write_text("model: a\n")
    with pytest.raises(UserError, match=r"with tau 0.7, and .*1-of-2 with 0.8"):
        outputs.merge(tmp_path, Reporter())
    refined(second, rows_of(50)[1:30:2])
    with pytest.raises(UserError, match="not of the same rows"):
        outputs.merge(tmp_path, Reporter())
    refined(second, rows_of(50)[1::2])
    lines = (second / "decisions.jsonl").read_text().splitlines(keepends=True)
    (second / "decisions.jsonl").write_text("".join(lines[:10]))
    with pytest.raises(UserError, match=r"decisions.jsonl of its shards hold 35 rows of 50"):
        outputs.merge(tmp_path, Reporter())
    assert not (tmp_path / "refined.parquet").exists()


def test_shards_of_other_rows_are_refused_and_other_names_are_not(tmp_path):
    folders = [outputs.shard_folder(tmp_path, f"{number}/2") for number in (1, 2)]

    def make(at, data):
        run(folders[at], rows_of(20)[at::2], roles(), given={"total_rows": 20, "data": data})
        (folders[at] / "config.yaml").write_text(f"data: {'ab'[at]}/rows.jsonl\n")

    make(0, "hash 1")
    make(1, "hash 2")
    assert outputs.unfinished(tmp_path, folders[0]) == ["2/2"]
    with pytest.raises(UserError, match=r"with data hash 2, and .*1-of-2 with hash 1"):
        outputs.merge(tmp_path, Reporter())
    make(1, "hash 1")
    summary = (folders[1] / "summary.json").read_text()  # another model behind the same URL
    (folders[1] / "summary.json").write_text(summary.replace('"fuser": "fuser"', '"fuser": "another"'))
    assert outputs.unfinished(tmp_path, folders[0]) == ["2/2"]
    make(1, "hash 1")
    assert outputs.unfinished(tmp_path, folders[0]) == []
    assert outputs.merge(tmp_path, Reporter())["finished"]


@pytest.mark.parametrize(("engines", "joins"), [
    ({"rewriter": ("m@http://a/v1", "m@https://b:8/v1+http://c/v1")}, True),
    ({"judge": ("m@http://a/v1, n@http://a/v1", "m@http://b/v1,n@http://c/v1#KEY")}, True),
    ({"fuser": ("http://a/v1", "http://b")}, True), ({"fuser": ("http://a/v1", "m@http://b")}, True),
    ({"judge": ("m@http://a/v1", "m@http://a/v1,n@http://a/v1")}, False),
    ({"fuser": ("a/b", "a/c")}, False),
    ({"extra_body": ({"x": 1}, {})}, False)])
def test_shards_of_the_same_models_join_whatever_their_addresses(tmp_path, engines, joins):
    folders = [outputs.shard_folder(tmp_path, f"{number}/2") for number in (1, 2)]
    for at, folder in enumerate(folders):
        refined(folder, rows_of(20)[at::2])
        config = {name: values[at] for name, values in engines.items()}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert outputs.unfinished(tmp_path, folders[0]) == ([] if joins else ["2/2"])
    refused = pytest.raises(UserError, match=f"was refined with --{next(iter(engines))}")
    with nullcontext() if joins else refused:
        outputs.merge(tmp_path, Reporter())


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
