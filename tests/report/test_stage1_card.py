"""The dataset card, and refined.parquet through the eyes of `datasets`."""

import json

import pytest
import yaml

from raft_fast.data.dataset import REFINED_COLUMNS, Row, RowWriter
from raft_fast.report.stage1.card import write_card

SUMMARY = {
    "rows": {"used": 3, "total": 12}, "sources": {"gold": 1, "rewrite": 1, "fused": 1},
    "passed_filter": 2, "objections": {"similarity": 1}, "similarity": {"p50": 0.912},
    "tau": 0.85, "fused_tau": None, "judge_stop": 0.8, "fusion_rounds": 3, "quorum": 2, "seed": 4,
    "engines": {"rewriter": "/home/someone/small@1", "fuser": "big|@http://x", "judges": ["j<1>", "j2"]},
    "fuser_is_judge": False, "failed_scores": {"j2": 5}, "prompts": {"rewrite": "rewrite-abc"},
    "supervision_gap": {"rows": 3, "gold": 2.5, "training": 1.25, "gap": 1.25},
}


def rows():
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why <b>?"}]
    return [Row("a", turns, "ŷ", "y", "roofs", "ȳ", "ŷ", "fused", 0.9),
            Row("b", turns[1:], "ȳ", "y", None, "ȳ", None, "rewrite", 0.8),
            Row("c", turns[1:], "y", "y", None, None, None, "gold", None)]


@pytest.fixture
def folder(tmp_path):
    """A refined folder with everything that lies beside the rows."""
    with RowWriter(tmp_path / "refined.parquet", tmp_path / "refined.partial.parquet") as writer:
        for row in rows():
            writer.write(row)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "config.yaml").write_text("data: /home/someone/rows.jsonl\nencoder: mini\n")
    for name in ("decisions.jsonl", "journal.jsonl", "rejected.jsonl"):
        (tmp_path / name).write_text('{"other": 1}\n')
    write_card(tmp_path, "cc-by-4.0", "en, sv")
    return tmp_path


def front(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_the_front_matter_is_what_the_hub_reads(folder):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    data = huggingface_hub.DatasetCard.load(folder / "README.md").data
    assert data.license == "cc-by-4.0"
    assert data.language == ["en", "sv"]
    assert data.size_categories == ["n<1K"]
    assert "synthetic" in data.tags
    write_card(folder)
    assert front(folder)["license"] == "unknown"
    assert "language" not in front(folder)


@pytest.mark.parametrize(("used", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**5, "100K<n<1M")])
def test_size_categories_have_the_hubs_names(folder, used, size):
    (folder / "summary.json").write_text(json.dumps(SUMMARY | {"rows": {"used": used, "total": used}}))
    write_card(folder)
    assert front(folder)["size_categories"] == [size]


def test_the_card_tells_the_runs_own_numbers_and_no_paths(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    for said in ("| rows | 3 of 12 |", "2 (67 %)", "| τ | 0.85 |", "small@1", "rewrite-abc",
                 "| nats a token for the rewriter, gold answers | 2.500 |", "0.912",
                 "2 of the answers in `completion` are synthetic", "is cc-by-4.0",
                 "5 judge replies held no score", "rows.jsonl"):
        assert said in text
    assert "/home/someone" not in text
    assert "<1>" not in text  # escaped
    assert r"big\|@http" in text
    for column in REFINED_COLUMNS:
        assert f"| `{column}` |" in text


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_the_folder_and_only_its_rows(folder, tmp_path, streaming):
    datasets = pytest.importorskip("datasets")
    cache = str(tmp_path / "cache")
    found = datasets.load_dataset(str(folder), split="train", streaming=streaming, cache_dir=cache)
    alone = datasets.load_dataset("parquet", data_files=str(folder / "refined.parquet"),
                                  split="train", streaming=streaming, cache_dir=cache)
    for table in (found, alone):
        assert tuple(table.column_names) == REFINED_COLUMNS
        lines = list(table)
        assert [line["completion"] for line in lines] == ["ŷ", "ȳ", "y"]
        assert lines[0]["prompt"] == rows()[0].prompt
        assert [line["similarity"] for line in lines] == [0.9, 0.8, None]
        assert [line["fused"] for line in lines] == ["ŷ", None, None]


def test_rows_set_aside_are_named_and_nothing_refined_is_said(folder):
    summary = SUMMARY | {"sources": {"gold": 3, "rewrite": 0, "fused": 0}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "rejected.jsonl").write_text('{"reason": "answer is empty"}\n' * 2)
    text = write_card(folder).read_text()
    assert "Nothing was refined" in text
    assert "synthetic text" not in text
    assert "set aside, in rejected.jsonl: 2 (2 answer is empty)" in text
