"""Stage 1 from rows to files, with engines that answer by a rule."""

import json
from dataclasses import replace

import pytest
from refinement_stubs import StubEncoder, StubEngine, row, rows_of, run

from raft_fast.data.dataset import read_table
from raft_fast.engines import Reply
from raft_fast.engines.asking import PATIENCE
from raft_fast.refinement import Roles, Stage1, refine
from raft_fast.refinement.candidates import Candidate, Decision, best, read_line, refined_rows
from raft_fast.refinement.checks import ALWAYS, CHECKS
from raft_fast.refinement.outputs import outcome
from raft_fast.run.errors import UserError
from raft_fast.run.options import RefineOptions
from raft_fast.run.progress import Reporter

ROWS = [row("near", "near?", "gold near"), row("far", "far?", "gold far")]
ENCODER = StubEncoder({"gold far": 0.5})


def writer():
    return StubEngine("writer", lambda text, seed: "rewritten")


def fuser():
    return StubEngine("fuser", lambda text, seed: f"fusion {seed}")


def judge(name="judge", answer=lambda text, seed: 0.5):
    return StubEngine(name, answer)


def by_fusion(table):
    """A judge that scores `fusion n` by the table."""
    return lambda text, seed: next(score for n, score in table.items() if f"fusion {n}\n" in text)


def refined(folder, roles, rows=ROWS, encoder=ENCODER, **options):
    run(folder, rows, roles, encoder, skip_checks="numbers", **options)
    table = read_table(str(folder / "refined.parquet"), 0.0).rows
    lines = (folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    summary = json.loads((folder / "summary.json").read_text())
    return table, [json.loads(line) for line in lines], summary


def test_rows_that_pass_are_fused_the_others_keep_gold_and_decisions_tell_the_whole_story(tmp_path):
    broken = judge("b", by_fusion({1: Reply("", error="garbage"), 2: 0.9}))
    table, decisions, summary = refined(tmp_path, Roles(writer(), fuser(), [judge("a"), broken]),
                                        fusion_rounds=3, judge_stop=0.7, quorum=1)
    near, far = table
    assert (near.source, near.completion, near.fused) == ("fused", "fusion 2", "fusion 2")
    assert (near.rewrite, near.gold, near.similarity) == ("rewritten", "gold near", 1.0)
    assert (far.source, far.completion, far.rewrite, far.similarity) == ("gold", "gold far", None, 0.5)
    assert summary["finished"]
    assert summary["sources"] == {"gold": 1, "rewrite": 0, "fused": 1}
    assert summary["rows"] == {"used": 2, "total": 2}
    assert summary["engines"] == {"rewriter": "writer", "fuser": "fuser", "judges": ["a", "b"]}
    assert {name: used["prompt"] for name, used in summary["tokens"].items()} == {
        "rewrite": 20, "fuse": 20, "judge": 30}
    assert (summary["similarity"]["p50"], summary["objections"]) == (0.75, {"similarity": 1})
    near, far = decisions
    journal = {line["key"]: line for line in map(
        json.loads, (tmp_path / "journal.jsonl").read_text().splitlines()) if "key" in line}
    assert journal[near["key"]]["reply"]["text"] == near["rewrite"]
    for one in near["rounds"]:
        assert journal[one.pop("key")]["reply"]["text"] == one["fused"]
        for score in one["scores"]:
            assert journal[score.pop("key")]["engine"] == score["judge"]
            assert score.pop("tokens") == ({"prompt": 0, "completion": 0} if score["error"]
                                           else {"prompt": 10, "completion": 2})
    del near["key"]
    no_objections = dict.fromkeys([*ALWAYS, *CHECKS.keys() - {"numbers"}])
    assert near == {
        "row_id": "near", "category": None, "prompt": [{"role": "user", "content": "near?"}],
        "gold": "gold near", "rewrite": "rewritten", "similarity": 1.0,
        "checks": {**no_objections, "similarity": None},
        "passed": True,
        "rounds": [
            {"origin": "fused", "round": 1, "fused": "fusion 1", "similarity": 1.0, "score": 0.5,
             "no_score": None, "checks": no_objections,
             "scores": [{"judge": "a", "score": 0.5, "error": None},
                        {"judge": "b", "score": None, "error": "garbage"}]},
            {"origin": "fused", "round": 2, "fused": "fusion 2", "similarity": 1.0, "score": 0.7,
             "no_score": None, "checks": no_objections,
             "scores": [{"judge": "a", "score": 0.5, "error": None},
                        {"judge": "b", "score": 0.9, "error": None}]},
        ],
        "source": "fused", "completion": "fusion 2",
        "why": "round 2 of 2 has the best mean score, 0.700 from 2 of 2 judges",
        "nll": None,
        "tokens": {"rewrite": {"prompt": 10, "completion": 2},
                   "fuse": {"prompt": 20, "completion": 4},
                   "judge": {"prompt": 30, "completion": 6}},
    }
    assert [far[key] for key in ("source", "rewrite", "rounds", "why")] == [
        "gold", "rewritten", [], "similarity 0.500 is below --tau 0.8"]
    assert summary["judges"] == {"a": {"scores": 2, "failed": 0, "mean": 0.5,
                                       "tokens": {"prompt": 20, "completion": 4}},
                                 "b": {"scores": 1, "failed": 1, "mean": 0.9,
                                       "tokens": {"prompt": 10, "completion": 2}}}


@pytest.mark.parametrize(("scores", "rounds", "chosen"), [
    ({1: 0.8, 2: 1.0, 3: 1.0}, 1, "fusion 1"),  # the mean reaches judge_stop at once
    ({1: 0.2, 2: 0.9, 3: 1.0}, 2, "fusion 2"),
    ({1: 0.3, 2: 0.7, 3: 0.5}, 3, "fusion 2"),  # never reached: the best of all rounds
])
def test_rounds_stop_early_and_the_best_one_wins(tmp_path, scores, rounds, chosen):
    """Greedy fusions would all be the same, so there is one round then."""
    roles = Roles(writer(), fuser(), [judge(answer=by_fusion(scores))])
    table, decisions, _ = refined(tmp_path, roles, fusion_rounds=3)
    assert len(decisions[0]["rounds"]) == rounds
    assert table[0].completion == chosen
    _, decisions, _ = refined(tmp_path / "greedy", roles, fusion_rounds=3, rewrite_temperature=0.0)
    assert len(decisions[0]["rounds"]) == 1
    table, decisions, summary = refined(tmp_path / "none", Roles(writer()), fusion_rounds=0)
    assert [one.source for one in table] == ["rewrite", "gold"]
    assert decisions[0]["why"] == "it passed the filter, and no fusion was asked for"
    assert summary["engines"]["fuser"] is None


def test_fused_tau_refuses_a_fusion_that_drifts_before_a_judge_sees_it(tmp_path):
    encoder = StubEncoder({"fusion 1": 0.6, "gold far": 0.5})
    roles = Roles(writer(), fuser(), [judge()])
    table, decisions, _ = refined(tmp_path, roles, encoder=encoder, fusion_rounds=2, fused_tau=0.7)
    assert decisions[0]["rounds"][0]["scores"] == []
    assert decisions[0]["rounds"][0]["checks"]["similarity"] == ("similarity 0.600 is below --fused_tau 0.7")
    assert table[0].completion == "fusion 2"


@pytest.mark.parametrize("option", ["--rewriter", "--fuser", "--judge"])
def test_an_engine_that_always_fails_is_quoted_and_not_paid_for_another_round(tmp_path, option):
    bad = StubEngine("bad", lambda text, seed: Reply("", error="boom 17"))
    parts = {"--rewriter": writer(), "--fuser": fuser(), "--judge": judge()} | {option: bad}
    roles = Roles(parts["--rewriter"], parts["--fuser"], [parts["--judge"]])
    with pytest.raises(UserError, match=f"{option} bad: none of {PATIENCE} replies .* boom 17"):
        refined(tmp_path, roles, rows_of(PATIENCE), fusion_rounds=3)
    assert len(bad.asked) == PATIENCE


def test_a_second_run_asks_only_for_what_an_option_changes_and_decides_the_same(tmp_path, monkeypatch):
    def again(**options):
        roles = Roles(writer(), fuser(), [judge()])
        found = refined(tmp_path, roles, **options)
        return found, [len(engine.asked) for engine in (roles.rewriter, roles.fuser, *roles.judges)]

    first, asked = again(fusion_rounds=1)
    assert again(fusion_rounds=1) == (first, [0, 0, 0])
    (table, _, _), asked = again(fusion_rounds=1, tau=0.4)  # one more row passes
    assert ([row.source for row in table], asked) == (["fused", "fused"], [0, 1, 1])
    monkeypatch.setattr("raft_fast.engines.score.VERSION", "-2")  # another way to score
    assert again(fusion_rounds=1)[1] == [0, 0, 1]


def sample_and_rank(rows, bench):
    """Reward-ranked: two draws a row, the higher reward is trained on; a row without one is dropped."""
    decisions = []
    for one in rows:
        drawn = [Candidate(one, "sample", number, reply, {"reward": len(reply.text) / 10},
                           {"loops": "loops" if reply.text == "bad" else None})
                 for number in (1, 2)
                 for reply in bench.rewriter.ask("sample", [one.prompt], replace(bench.sampling, seed=number),
                                                 bench.prompts.rewrite)]
        pick = best(drawn, "reward")
        decisions.append(Decision(one, drawn, [pick] if pick else [], "the higher reward"))
    return decisions


def test_a_recipe_of_ones_own_needs_nothing_else_changed(tmp_path):
    """Any origin, scores and objections: written, counted, summed up and read back."""
    engine = StubEngine("student", lambda text, seed: "bad" if text == "far?" else "x" * seed)
    stage = Stage1(RefineOptions(fusion_rounds=0), sample_and_rank, lambda *_: [])
    summary = refine(ROWS, stage, Roles(engine), ENCODER, tmp_path, Reporter())
    table = read_table(str(tmp_path / "refined.parquet"), 0.0).rows
    assert [(one.row_id, one.completion, one.rewrite) for one in table] == [("near", "xx", None)]
    near, far = map(json.loads, (tmp_path / "decisions.jsonl").read_text().splitlines())
    assert (near["picks"], near["source"], near["completion"]) == ([["sample", 2]], "sample", "xx")
    assert [(one["sample"], one["other_scores"]) for one in near["rounds"]] == [
        ("x", {"reward": 0.1}), ("xx", {"reward": 0.2})]
    assert (far["picks"], far["source"], far["completion"]) == ([], None, None)
    assert [one["checks"] for one in far["rounds"]] == 2 * [{"loops": "loops"}]
    assert near["tokens"]["sample"] == {"prompt": 20, "completion": 4}
    assert summary["sources"] == {"gold": 0, "rewrite": 0, "fused": 0, "sample": 1}
    assert summary["origins"]["sample"]["objections"] == {"loops": 2}
    assert (summary["origins"]["sample"]["drawn"], summary["origins"]["sample"]["passed"]) == (4, 2)
    assert outcome(summary)[0].startswith("1 of 2 rows have an answer that passed")
    candidates, picks = read_line(near)
    assert (candidates[2].text, candidates[2].scores, picks) == ("xx", {"reward": 0.2}, [candidates[2]])
    assert summary["origins"]["sample"]["scores"]["reward"]["p100"] == 0.3
    both = [Candidate(ROWS[0], "sample", number, Reply(f"answer {number}")) for number in (1, 2)]
    assert [(one.row_id, one.completion) for one in refined_rows(
        Decision(ROWS[0], both, both, "all").as_json())] == [("near", "answer 1"), ("near#2", "answer 2")]
