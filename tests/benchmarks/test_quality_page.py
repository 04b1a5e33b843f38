"""What the page's tiles, bars and tables say of few rows, many runs and odd steps."""

import json

import pytest
from quality_stubs import make_folder

from benchmarks.quality import drawings, plane, render
from benchmarks.quality.deciding import Finding, Line
from benchmarks.quality.kept import count, kept
from benchmarks.quality.page import tiles
from benchmarks.quality.table import best_table
from benchmarks.quality.twins import distils, twins

RAFT = {"distillation": True, "teacher_sees_answer": True, "sft": True, "balance": "ema", "tau": 0.8}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(plane, "RESAMPLES", 60)


def follow(folder, strict):
    """Let `strict(cell, key)` say which instructions an answer follows; the base's cell is the folder."""
    for path in folder.rglob("*generations.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for one in records:
            if one["suite"] == "general":
                one["strict"] = strict(path.parent.name, int(one["key"]))
        path.write_text("".join(json.dumps(one) + "\n" for one in records))


def test_the_kl_term_alone_is_no_raft_and_no_twin():
    methods = {"raft": RAFT, "kl_only": RAFT | {"sft": False}, "tau0": RAFT | {"tau": 0.0}}
    assert [name for name, options in methods.items() if distils(options)] == ["raft", "tau0"]
    assert [one["method"] for one in twins(methods)] == ["tau0"]
    assert twins({"kl_only": methods["kl_only"]}) == []
    before = {name: {key: one for key, one in options.items() if key != "sft"}
              for name, options in methods.items()}  # cells of before that option were
    assert distils(before["raft"])


def test_tiles_count_every_answer():
    lines = [Line("a", answer, "") for answer in ("yes", "no", "no", "undecided", "undecided", "undecided")]
    (tile,) = tiles([Finding("?", "learns more", "comparisons", lines), Finding("?", "option", "", lines),
                     Finding("?", "none", "comparisons", [])])
    assert (tile["value"], tile["note"]) == ("1\u00a0yes, 2\u00a0no", "3 undecided; comparisons")


def test_one_odd_step_does_not_make_the_ratio(tmp_path):
    found = render.again(make_folder(tmp_path, methods=("sft", "raft"), seeds=2))
    rate = found["best"]["raft"]["learning_rate"]
    steps = [step for one in found["curves"] for step in one["steps"]
             if one["method"] == "raft" and one["learning_rate"] == rate]
    for number, step in enumerate(steps):
        step["ce_kl_ratio"] = 21455.84 if number == 0 else 1.25 if number % 4 else None
    (row,) = [line for line in best_table(found, {}).splitlines() if line.startswith("| raft |")]
    assert row.endswith("| 1.25 (98\u00a0% in [½, 2]) |")


def test_a_share_of_a_handful_is_not_drawn(tmp_path):
    """The base follows 3 of 12; raft one more with one seed and two more with the other."""
    folder = make_folder(tmp_path, methods=("sft", "raft"), seeds=2)
    follow(folder, lambda cell, key: [key < 3 + ("seed0" in cell) + 2 * ("seed1" in cell)])
    found = render.again(folder)
    told = kept(found, folder)
    assert (told["raft"].before, told["raft"].after, told["raft"].asked) == (3, 4.5, 12)
    drawn = drawings.kept(found["best"], told)
    assert "base 3 of 12 instructions: too few for a retention" in drawn
    assert "raft: 3 → 4.5 of 12" in drawn
    assert "%" not in drawn
    assert "| 3 → 4.5 of 12 |" in best_table(found, told)
    render.write(found, folder)
    assert "3 → 4.5 of 12" in (folder / "index.html").read_text()
    for path in folder.rglob("*generations.jsonl"):
        path.unlink()
    assert kept(found, folder) == {}
    assert drawings.kept(found["best"], {}) is None


def test_a_share_is_drawn_with_its_interval(tmp_path):
    folder = make_folder(tmp_path, methods=("sft", "raft"))
    follow(folder, lambda cell, key: [True, key % 3 > 0, False] if "seed" in cell else [True, True, key < 4])
    found = render.again(folder)
    told = kept(found, folder)
    share = told["raft"].share
    assert share["mean"] == pytest.approx((12 + 8) / (12 + 12 + 4))
    assert share["low"] < share["mean"] < share["high"] < 1
    bars = drawings.kept(found["best"], told)
    assert "71 %" in bars
    assert bars.count("LineCollection") == 2  # an interval for each method
    assert f"| 71\u00a0% [{100 * share['low']:.0f}\u00a0%, " in best_table(found, told)


def test_seeds_of_a_prompt_are_drawn_together():
    """Two seeds that agree are no more sure than one, and their mean is what was followed."""
    base, seed = [(2.0, 3.0)] * 12, [(float(key % 3), 3.0) for key in range(12)]
    assert count(base, [seed, seed]).share == count(base, [seed]).share
    mean = count(base, [seed, base])
    assert (mean.before, mean.after, mean.asked) == (24, 18.0, 36)
    assert count(base, [[None, *seed[1:]]]).asked == 33


def test_bars_say_at_which_rate_and_step(tmp_path):
    found = render.again(make_folder(tmp_path, methods=("sft", "raft")))
    found["best"]["raft"] |= {"learning_rate": 1e-5, "step": 15}
    for draw in (drawings.drifted, drawings.moved):
        bars = draw(found["best"])
        assert "1e-05, step 15" in bars
        assert "3e-05, step 30" in bars
    assert drawings.drifted(found["best"]).count("LineCollection") == 2


def test_an_arrow_ends_where_the_rows_that_both_have_end(tmp_path):
    found = render.again(make_folder(tmp_path, methods=("sft", "raft")))
    one = found["best"]["raft"] | {"means": {"domain.jury": 0.9}, "changes": {
        "domain.jury": {"mean": 0.0, "low": None, "high": None, "n": 24}}}
    assert drawings._moved(one, {"domain.jury": 0.6}, "domain.jury") == 0
