"""What the report takes from the tally of stage 1, against numbers worked out by hand."""

import json
import random

from stage1_stubs import many, write_folder

from raft_fast.report.page import write_refine_report
from raft_fast.report.stage1 import Examples, costs, counts, draws, flow, judges, objections, read_stage1

SUMMARY = {
    "tokens": {"rewrite": {"prompt": 1_500_000, "completion": 200_000},
               "fuse": {"prompt": 100_000, "completion": 10_000},
               "judge": {"prompt": 3_000_000, "completion": 500}},
    "judges": {"one": {"scores": 3, "failed": 1, "mean": 0.5,
                       "tokens": {"prompt": 2_000_000, "completion": 500}},
               "two": {"scores": 4, "failed": 0, "mean": 0.5,
                       "tokens": {"prompt": 1_000_000, "completion": 0}}},
    "prices": {"rewriter": {"prompt": 2.0, "completion": 10.0}, "fuser": {"prompt": 1.0, "completion": 1.0},
               "judges": {"one": {"prompt": 0.5, "completion": 1.0},
                          "two": {"prompt": 3.0, "completion": 9.0}}},
}


def a_round(number, *scores, fused="f", checks=None):
    given = [score for score in scores if score is not None]
    return {"round": number, "fused": fused, "checks": checks or {}, "similarity": 0.9,
            "score": sum(given) / len(given) if given else None,
            "scores": [{"judge": f"j{place}", "score": score,
                        "error": None if score is not None else "broken"}
                       for place, score in enumerate(scores)]}


def row(row_id, source, similarity=0.9, rounds=(), rewrite="r", nll=None, refused=None):
    return {"row_id": row_id, "source": source, "similarity": similarity, "rounds": list(rounds), "gold": "g",
            "rewrite": rewrite, "checks": {"cut_off": None} | (refused or {}), "nll": nll, "why": "because"}


def test_rows_and_candidates_are_counted_by_origin(tmp_path):
    found = read_stage1(write_folder(tmp_path, [
        row("a", "fused", rounds=[a_round(1, 0.5, 0.7), a_round(2, 0.9, 0.8)]),
        row("b", "fused", rounds=[a_round(1, 0.4, 0.4), a_round(2, 0.4, 0.4)]),
        row("c", "rewrite", rounds=[a_round(1, None, None), a_round(2, checks={"copy": "same"})]),
        row("d", "gold", similarity=0.5, refused={"similarity": "below"}),
        row("e", "gold", rewrite=None, similarity=None, refused={"reply": "no reply: busy"}),
        '{"row_id": "half', "[1, 2]"], rows={"used": 5, "total": 9, "rejected": 1}))
    assert found.damaged == 2
    assert dict(zip(*flow(found), strict=True)) == {
        "in the data": 10, "read": 5, "rewrite: passed": 3, "fused: passed": 3, "judged 0.8 or better": 1}
    columns, lines = draws(found.tally)
    assert columns[:5] == ("origin", "draw", "candidates", "passed", "chosen")
    assert [line[:5] for line in lines] == [
        ("gold", "", "5", "5", "2"), ("rewrite", "1", "5", "3", "1"), ("fused", "1", "3", "3", "1"),
        ("fused", "2", "3", "2", "1")]
    assert objections(found.tally) == (("check", "rewrite", "fused"), [
        ("similarity", "1", "0"), ("reply", "1", "0"), ("copy", "0", "1")])
    first, second = judges(found.tally)
    assert first == ("j0", "4", "0.550", "−0.025", "1", "broken")
    assert second[3] == "+0.025"
    assert ("trained on: gold", "2 (40\u00a0%)") in counts(found.summary)


def test_the_gap_is_measured_on_what_each_row_is_trained_on(tmp_path):
    folder = write_folder(tmp_path, [
        row("a", "fused", rounds=[a_round(1, 0.5)], nll={"gold": 3.0, "rewrite": 1.0, "fused": 2.0}),
        row("b", "gold", nll={"gold": 2.0, "rewrite": 0.5, "fused": None}, refused={"copy": "same"}),
        row("c", "rewrite", nll={"gold": 4.0, "rewrite": 1.0, "fused": None}), row("d", "gold")])
    found = dict(counts(read_stage1(folder).summary))
    name = "nats per token for the rewriter: "
    assert found[f"{name}gold answers"] == "3.000"
    assert found[f"{name}training answers"] == "1.667"
    assert found[f"{name}supervision-compatibility gap"] == "+1.333"


def test_without_likelihoods_the_reason_is_given(tmp_path):
    folder = write_folder(tmp_path, [one | {"nll": None} for one in many(5)], no_likelihoods="it is a server")
    assert "not measured: it is a server" in write_refine_report(folder).read_text()


def test_every_engine_has_its_replies_tokens_and_money(tmp_path):
    rows = [one for one in many(96) if one["rounds"]][:2]
    assert costs(read_stage1(write_folder(tmp_path, rows, **SUMMARY))) == [
        ("rewrite", "2", "1,500,000", "200,000", "5.00"), ("fused", "4", "100,000", "10,000", "0.1100"),
        ("judge one", "4", "2,000,000", "500", "1.00"), ("judge two", "4", "1,000,000", "0", "3.00"),
        ("all", "14", "4,600,000", "210,500", "9.11")]
    unpriced = SUMMARY | {"prices": SUMMARY["prices"] | {"fuser": None}}
    found = costs(read_stage1(write_folder(tmp_path, rows, **unpriced)))
    assert [line[-1] for line in found] == ["5.00", "–", "1.00", "3.00", "–"]


def test_all_starts_of_the_command_are_added_up(tmp_path):
    folder = write_folder(tmp_path, many(3))
    runs = [{"finished": False, "seconds": 30.0, "asked": 1200, "cached": 0, "failed": 2},
            {"finished": True, "seconds": 62.5, "asked": 10, "cached": 1200, "failed": 0}]
    (folder / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs) + '{"half')
    assert ("2 starts of the command, 1 min 32 s: 1,210 requests, 1,200 replies from the journal, 2 failures"
            ) in write_refine_report(folder).read_text(encoding="utf-8")


def test_examples_are_the_same_in_any_order_and_spread_over_reasons():
    rows = [(reason, {"row_id": f"{reason}{n}"}) for reason, n in
            [*(("often", n) for n in range(50)), ("once", 0), *(("twice", n) for n in range(2))]]
    found = []
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        examples = Examples(10)
        for reason, record in rows:
            examples.add(reason, record)
        found.append([record["row_id"] for record in examples.chosen()])
    assert found[0] == found[1] == found[2]
    kinds = [name.rstrip("0123456789") for name in found[0]]
    assert sorted(kinds[:3]) == ["often", "once", "twice"]
    assert [kinds.count(kind) for kind in ("often", "once", "twice")] == [7, 1, 2]


def test_every_kind_of_decision_has_examples(tmp_path):
    found = read_stage1(write_folder(tmp_path, many(96)))
    assert len(found.rejected.chosen()) == len(found.accepted.chosen()) == 10
