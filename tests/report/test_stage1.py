"""What page, card and terminal take from stage 1's files, against numbers worked out by hand."""

import subprocess
import sys

import pytest
from stage1_stubs import many, write_folder

from raft_fast.report.stage1 import counts, draws, engines, explain, read_stage1
from raft_fast.run.errors import UserError


def spent(prompt, completion):
    return {"prompt": prompt, "completion": completion}


def a_round(number, *scores, checks=None):
    given = [score for score in scores if score is not None]
    return {"round": number, "fused": "f", "checks": checks or {}, "similarity": 0.9,
            "score": sum(given) / len(given) if given else None,
            "scores": [{"judge": f"j{place}", "score": score,
                        "error": None if score is not None else "broken"}
                       for place, score in enumerate(scores)]}


def row(row_id, source, rounds=(), nll=None, refused=None):
    return {"row_id": row_id, "source": source, "similarity": 0.9, "rounds": list(rounds), "gold": "g",
            "tokens": {"rewrite": spent(1234 * (row_id == "a"), 56 * (row_id == "a")), "judge": spent(9, 9)},
            "rewrite": "r", "checks": {"cut_off": None} | (refused or {}), "nll": nll, "why": "because"}


def test_rows_candidates_and_engines_are_counted_and_every_kind_has_examples(tmp_path):
    found = read_stage1(write_folder(tmp_path, [
        row("a", "fused", [a_round(1, 0.5, 0.7), a_round(2, 0.9, 0.8)],
            {"gold": 3.0, "rewrite": 1.0, "fused": 2.0}),
        row("b", "fused", [a_round(1, 0.4, 0.4), a_round(2, 0.4, 0.4)]),
        row("c", "rewrite", [a_round(1, None, None), a_round(2, checks={"copy": "same"})],
            {"gold": 4.0, "rewrite": 1.0, "fused": None}),
        row("d", "gold", nll={"gold": 2.0, "rewrite": 0.5, "fused": None}, refused={"similarity": "below"}),
        row("e", "gold", refused={"reply": "no reply: busy"}),
        '{"row_id": "half', "[1, 2]"]))
    assert found.damaged == 2
    assert {kind: [one["row_id"] for one in kept] for kind, kept in found.examples.items()} == {
        "fused 2": ["a"], "fused 1": ["b"], "rewrite 1": ["c"], "similarity": ["d"], "reply": ["e"]}
    columns, lines = draws(found.tally)
    assert [(*line[:5], line[-1]) for line in (columns, *lines)] == [
        ("origin", "draw", "candidates", "passed", "chosen", "refused by"),
        ("gold", "", "5", "5", "2", ""), ("rewrite", "1", "5", "3", "1", "similarity 1, reply 1"),
        ("fused", "1", "3", "3", "1", ""), ("fused", "2", "3", "2", "1", "copy 1")]
    assert engines(found.tally) == [
        ("rewrite", "1,234", "56", *[""] * 4), ("judge j0", "0", "0", "4", "0.550", "1", "broken"),
        ("judge j1", "0", "0", "4", "0.575", "1", "broken")]
    name, said = "nats per token for the rewriter: ", dict(counts(found.summary, tmp_path))
    assert said["trained on: gold"] == "2 (40\u00a0%)"
    # measured on what each row is trained on
    assert [said[name + what] for what in ("gold answers", "training answers",
                                           "supervision-compatibility gap")] == ["3.000", "1.667", "+1.333"]
    assert max(map(len, read_stage1(write_folder(tmp_path, many(50))).examples.values())) == 2


def shown(capsys, folder, row_id):
    explain(folder, row_id)
    return capsys.readouterr().out


def test_the_story_has_every_part_in_order_and_does_not_control_the_terminal(tmp_path, capsys):
    row = next(one for one in many(96, "\x1b[31m[bold]x[/bold]\x07\u009b2J ") if len(one["rounds"]) == 2
               and any(verdict["error"] for verdict in one["rounds"][1]["scores"]))
    row |= {"gold": "the gold words", "rewrite": "the rewritten words", "row_id": 'ä "q" \\',
            "tokens": {"rewrite": spent(1234, 56)}}
    row["rounds"][1]["fused"] = "the fused words"
    refused = next(one for one in many(96) if one["checks"]["similarity"] and not one["checks"]["copy"])
    folder = write_folder(tmp_path, [row | {"row_id": row["row_id"] * 2}, row, refused])
    out = shown(capsys, folder, row["row_id"])
    parts = [row["row_id"], "[bold]x[/bold]", "Why?", "gold", "nll 2.500", "the gold words", "rewrite 1",
             "similarity", "the rewritten words", "fused 1", "one", "two", "fused 2", "the fused words",
             "no score", "chosen", "1,234 tokens read, 56 written"]
    places = [out.find(part) for part in parts]
    assert min(places) >= 0
    assert places == sorted(places)
    assert not {"\x1b", "\x07", "\u009b"} & set(out)
    out = shown(capsys, folder, refused["row_id"])
    assert "is below --tau 0.8" in out
    assert "chosen: gold: similarity" in out


def test_a_stopped_run_is_read_before_the_finished_one_beside_it(tmp_path, capsys):
    run = write_folder(tmp_path / "run" / "refine", many(3))
    write_folder(tmp_path / "other", many(1)).joinpath("decisions.jsonl").rename(
        run / "decisions.partial.jsonl")
    for folder, row_id, name in ((tmp_path / "run", "faq-000", "decisions.partial.jsonl"),
                                 (run, "faq-001", "decisions.jsonl")):
        assert f"from {run / name}" in shown(capsys, folder, row_id)
    with pytest.raises(UserError, match=r"holds no decisions\.jsonl"):
        explain(tmp_path, "faq-001")


WITHOUT_MODELS = """
import sys
for name in ("torch", "transformers", "sentence_transformers", "datasets"):
    sys.modules[name] = None  # an import fails
from raft_fast.refine import main
main()"""


@pytest.mark.parametrize(("given", "code", "said"), [
    (["17", "--output_dir", "."], 0, ""), (["18", "--output_dir", "."], 2, "no such row"),
    (["17"], 2, "requires --output_dir")])
def test_the_command_needs_no_data_and_no_model(tmp_path, given, code, said):
    write_folder(tmp_path, [one | {"row_id": "17"} for one in many(1)])
    done = subprocess.run([sys.executable, "-c", WITHOUT_MODELS, "--explain", *given], capture_output=True,
                          text=True, cwd=tmp_path, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, bool(code))
    assert said in done.stderr
    assert done.stdout.startswith("17 ") == (not code)
