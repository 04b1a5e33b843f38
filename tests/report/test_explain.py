"""--explain shows the story of one row without any model."""

import subprocess
import sys
from pathlib import Path

import pytest
from stage1_stubs import many, write_folder

from raft_fast.report.explain import explain
from raft_fast.run.errors import UserError

ROOT = Path(__file__).parents[2]


def shown(capsys, folder, row_id):
    explain(folder, row_id)
    return capsys.readouterr().out


def fused_row(hostile=""):
    return next(one for one in many(96, hostile) if len(one["rounds"]) == 2
                and any(verdict["error"] for verdict in one["rounds"][1]["scores"]))


def test_the_story_has_every_part_in_its_order(tmp_path, capsys):
    row = fused_row() | {"gold": "the gold words", "rewrite": "the rewritten words",
                         "tokens": {"rewrite": {"prompt": 1234, "completion": 56}}}
    row["rounds"][1]["fused"] = "the fused words"
    out = shown(capsys, write_folder(tmp_path, [row]), row["row_id"])
    parts = [row["row_id"], "Why?", "gold", "nll 2.500", "the gold words", "rewrite 1", "similarity",
             "the rewritten words", "fused 1", "one", "two", "mean", "fused 2", "the fused words", "no score",
             "chosen", "1,234 read, 56 written"]
    places = [out.find(part) for part in parts]
    assert min(places) >= 0
    assert places == sorted(places)


def test_a_refused_rewrite_says_which_check_and_why(tmp_path, capsys):
    row = next(one for one in many(96) if one["checks"]["similarity"] and not one["checks"]["copy"])
    out = shown(capsys, write_folder(tmp_path, [row]), row["row_id"])
    assert "is below --tau 0.8" in out
    assert "fused" not in out
    assert "gold: similarity" in out


def test_text_of_the_data_commands_no_terminal(tmp_path, capsys):
    row = fused_row("\x1b[31m[bold]x[/bold]\x07\u009b2J :smile: ")
    out = shown(capsys, write_folder(tmp_path, [row]), row["row_id"])
    assert not {"\x1b", "\x07", "\u009b"} & set(out)
    assert "[bold]x[/bold]" in out
    assert ":smile:" in out


def test_an_id_is_matched_whole_and_however_it_is_written(tmp_path, capsys):
    rows = [one | {"row_id": name} for one, name in zip(many(3), ["a", "aa", 'ä "q" \\'], strict=True)]
    folder = write_folder(tmp_path, rows)  # the helper writes ä as an escape
    for row in rows:
        assert shown(capsys, folder, row["row_id"]).startswith(row["row_id"])


def test_a_training_run_and_a_stopped_run_have_stories_too(tmp_path, capsys):
    write_folder(tmp_path / "run" / "refine", many(3))
    stopped = write_folder(tmp_path / "stopped", many(3))
    (stopped / "decisions.jsonl").rename(stopped / "decisions.partial.jsonl")
    for folder in (tmp_path / "run", stopped):
        assert shown(capsys, folder, "faq-001")
    for folder, row_id, said in (
            (tmp_path, "faq-001", r"holds no decisions\.jsonl"), (stopped, "Zebra", "no such row"),
            (stopped, "fax-001", "--explain fax-001: no such row .* did you mean .*faq-001")):
        with pytest.raises(UserError, match=said):
            explain(folder, row_id)


def test_a_stopped_run_beside_a_finished_one_is_read_first_and_named(tmp_path, capsys):
    folder = write_folder(tmp_path, [one | {"completion": "old", "source": "fused"} for one in many(3)])
    finished = (folder / "decisions.jsonl").read_text()
    write_folder(tmp_path, [many(1)[0] | {"completion": "new", "source": "fused"}])
    (folder / "decisions.jsonl").rename(folder / "decisions.partial.jsonl")
    (folder / "decisions.jsonl").write_text(finished)
    newer, older = shown(capsys, folder, "faq-000"), shown(capsys, folder, "faq-001")
    assert "decisions.partial.jsonl: that run is not finished" in " ".join(newer.split())
    assert "new" in newer
    assert "decisions.jsonl: a newer run is not finished" in " ".join(older.split())
    assert "old" in older
    with pytest.raises(UserError, match=r"no such row in .*partial\.jsonl and .*decisions\.jsonl; did you"):
        explain(folder, "faq-01")


WITHOUT_MODELS = """
import sys
for name in ("torch", "transformers", "sentence_transformers", "datasets"):
    sys.modules[name] = None  # an import fails
from raft_fast.refine import main
main()
"""


def run_command(*arguments):
    return subprocess.run([sys.executable, "-c", WITHOUT_MODELS, *arguments], capture_output=True, text=True,
                          cwd=ROOT, check=False)


def test_the_command_needs_no_data_and_no_model(tmp_path):
    write_folder(tmp_path, [one | {"row_id": "17"} for one in many(1)])
    done = run_command("--explain", "17", "--output_dir", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("17 ")
    for arguments, said in [(("--explain", "18", "--output_dir", str(tmp_path)), "no such row"),
                            (("--explain", "17", "--output_dir", str(tmp_path / "no")), "holds no"),
                            (("--explain", "17"), "requires --output_dir")]:
        failed = run_command(*arguments)
        assert failed.returncode == 2
        line, = failed.stderr.splitlines()
        assert said in line
