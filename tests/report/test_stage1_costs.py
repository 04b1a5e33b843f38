"""Tokens and money, against sums done by hand."""

import json
import random

from stage1_stubs import decision, write_folder

from raft_fast.report.stage1.page import write_report
from raft_fast.report.stage1.section import section

JUDGES = {"one": {"scores": 3, "failed": 1, "mean": 0.5, "tokens": {"prompt": 2_000_000, "completion": 500}},
          "two": {"scores": 4, "failed": 0, "mean": 0.5, "tokens": {"prompt": 1_000_000, "completion": 0}}}
SUMMARY = {
    "tokens": {"rewrite": {"prompt": 1_500_000, "completion": 200_000},
               "fuse": {"prompt": 100_000, "completion": 10_000},
               "judge": {"prompt": 3_000_000, "completion": 500}},
    "judges": JUDGES,
    "prices": {"rewriter": {"prompt": 2.0, "completion": 10.0},
               "fuser": {"prompt": 1.0, "completion": 1.0},
               "judges": {"one": {"prompt": 0.5, "completion": 1.0},
                          "two": {"prompt": 3.0, "completion": 9.0}}},
}


def rows():
    """Two rows that passed, with two rounds each."""
    dice = random.Random(1)
    found = (decision(number, dice) for number in range(1, 100))
    return [one for one in found if one["rounds"]][:2]


def test_every_part_has_its_replies_tokens_and_money(tmp_path):
    found = section(write_folder(tmp_path, rows(), **SUMMARY))["costs"]
    assert [list(line.values()) for line in found] == [
        ["rewriter", "2", "1,500,000", "200,000", "5.00"],
        ["fuser", "4", "100,000", "10,000", "0.1100"],
        ["judge one", "4", "2,000,000", "500", "1.00"],
        ["judge two", "4", "1,000,000", "0", "3.00"],
        ["all", "14", "4,600,000", "210,500", "9.11"]]


def test_a_missing_price_leaves_no_sum(tmp_path):
    prices = SUMMARY["prices"] | {"fuser": None}
    found = section(write_folder(tmp_path, rows(), **SUMMARY | {"prices": prices}))["costs"]
    assert [line["money"] for line in found] == ["5.00", "–", "1.00", "3.00", "–"]


def test_all_starts_of_the_command_are_added_up(tmp_path):
    folder = write_folder(tmp_path, rows(), **SUMMARY)
    runs = [{"finished": False, "seconds": 30.0, "asked": 1200, "cached": 0, "failed": 2},
            {"finished": True, "seconds": 62.5, "asked": 10, "cached": 1200, "failed": 0}]
    (folder / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs) + '{"half')
    page = write_report(folder).read_text(encoding="utf-8")
    assert ("started 2 times and took 1 min 32 s in all: 1,210 requests, 1,200 answers from the "
            "journal, 2 failures") in page
    assert "4,810,500" in page  # the tile: read and written
