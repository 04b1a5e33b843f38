"""Model card and data set card, and refined.parquet as `datasets` reads it."""

import json

import datasets
import pytest
import yaml

from raft_fast.data.dataset import REFINED_COLUMNS, Row, write_rows
from raft_fast.report.page import write_card, write_model_card, write_run_report
from raft_fast.run.errors import UserError

LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8}
TURNS = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why <b>?"}]
SUMMARY = {
    "rows": {"used": 3, "total": 12}, "sources": {"gold": 1, "rewrite": 1, "fused": 1},
    "passed_filter": 2, "objections": {"similarity": 1}, "similarity": {"p50": 0.912},
    "tau": 0.85, "fusion_rounds": 3, "seed": 4,
    "engines": {"rewriter": "/home/someone/small@1", "fuser": "big|@http://x", "judges": ["j<1>", "j2"]},
    "fuser_is_judge": False, "prompts": {"rewrite": "rewrite-abc"},
    "supervision_gap": {"rows": 3, "gold": 2.5, "training": 1.25, "gap": 1.25},
}


def card(run_dir, **changed):
    """The card of the run with these options."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config | {"balance": "ema", "lora_r": 16} | changed))
    return write_model_card(run_dir).read_text()


def options(text):
    return {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_model_card_has_what_the_hub_reads_and_counts_rows_steps_and_tokens(run_dir):
    steps = [{"step": step, "tokens": 700, "trajectory_tokens": 90, "rows_seen": 4 * step, "kl_loss": 1}
             for step in (1, 2)]
    (run_dir / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    text = card(run_dir)
    assert front(text) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0",
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["raft"]}
    assert "pipeline(" in text
    assert set(text.splitlines()) >= {
        "| rows seen | 8 |", "| optimizer steps | 2 |", "| tokens, prompts included | 1,400 |",
        "| tokens sampled by the student | 180 |"}
    assert not {"base_model", "license"} & set(front(card(run_dir, model="/some/where")))  # not on the Hub
    with pytest.raises(UserError, match="no such folder"):
        write_model_card(run_dir / "nowhere")


def test_what_qualifies_the_scores_is_on_card_and_page(run_dir):
    assert "a little too good" not in card(run_dir)
    for name in ("summary.json", "decisions.jsonl"):
        (run_dir / "refine" / name).unlink()
    text = card(run_dir, load_best_model_at_end=True, data_source="gold")
    page = write_run_report(run_dir).read_text()
    for written in (text, page):
        assert "a little too good" in written
        assert not any(missing in written for missing in ("no summary", "No refine/decisions.jsonl"))
    assert "Trained on the gold answers" in page


@pytest.fixture
def folder(tmp_path):
    """A refined folder with everything that lies beside the rows."""
    write_rows([Row("a", TURNS, "ŷ", "y", "roofs", "ȳ", "ŷ", "fused", 0.9),
                Row("b", TURNS[1:], "ȳ", "y", None, "ȳ", None, "rewrite", 0.8),
                Row("c", TURNS[1:], "y", "y", None, None, None, "gold", None)], tmp_path / "refined.parquet")
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "config.yaml").write_text("data: /home/someone/rows.jsonl\nencoder: mini\n")
    for name in ("decisions.jsonl", "journal.jsonl", "rejected.jsonl"):
        (tmp_path / name).write_text('{"other": 1}\n')
    write_card(tmp_path)
    return tmp_path


def test_the_data_card_has_what_the_hub_reads_the_runs_own_numbers_and_no_paths(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert (front(text)["license"], front(text)["tags"]) == ("unknown", ["raft", "synthetic"])
    for said in ("| rows | 3 of 12 |", "| rows set aside, in rejected.jsonl | 1 |", "2 (67 %)", "small@1",
                 "| nats per token for the rewriter: gold answers | 2.500 |", "0.912", r"big\|@http",
                 "2 of the answers in `completion` are synthetic", "rows.jsonl", "j&lt;1&gt;", "rewrite-abc",
                 "| tau | 0.85 |", *(f"| `{column}` |" for column in REFINED_COLUMNS)):
        assert said in text
    assert not any(said in text for said in ("/home/someone", "j<1", "Nothing was refined"))
    for used, size in ((999, "n<1K"), (1000, "1K<n<10K"), (10**5, "100K<n<1M"), (10**9, "n>100M")):
        (folder / "summary.json").write_text(json.dumps(SUMMARY | {
            "rows": {"used": used, "total": used}, "sources": {"gold": used}}))
        assert front(text := write_card(folder).read_text())["size_categories"] == [size]
        assert ("Nothing was refined" in text, "synthetic text" in text) == (True, False)


def test_datasets_reads_the_folder_and_only_its_rows(folder, tmp_path):
    table = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert tuple(table.column_names) == REFINED_COLUMNS
    assert [(line["completion"], line["similarity"], line["fused"], line["prompt"]) for line in table] == [
        ("ŷ", 0.9, "ŷ", TURNS), ("ȳ", 0.8, None, TURNS[1:]), ("y", None, None, TURNS[1:])]
