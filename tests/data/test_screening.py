"""Vectors in files, nearest neighbours, duplicates and overlap: what is found, dropped and said."""

import errno
import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from faults import calls, fault

from raft_fast.data import screening
from raft_fast.data.dataset import Data, Row, screen_rows
from raft_fast.data.screening import Reference, embed_to_file, nearest, rows_as_references, screen
from raft_fast.models.load import unit
from raft_fast.report.page import write_refine_report
from raft_fast.run.errors import UserError
from raft_fast.run.options import ScreenOptions
from raft_fast.run.progress import Reporter


class AngleEncoder:
    """A text that ends in @degrees lies at that angle; any other has a direction of its own."""

    identity, device = "angles", "cpu"

    def __init__(self):
        self.asked = []

    def embed(self, texts):
        vectors = np.zeros((len(texts), 64))
        for vector, text in zip(vectors, texts, strict=True):
            _, at, degrees = text.rpartition("@")
            if at:
                vector[:2] = np.cos(np.radians(float(degrees))), np.sin(np.radians(float(degrees)))
            else:
                if text not in self.asked:
                    self.asked.append(text)
                vector[2 + self.asked.index(text)] = 1
        return unit(vectors)


def row(row_id, question, gold="Yes."):
    return Row(row_id, [{"role": "user", "content": question}], gold, gold)


def asking(*questions):
    """Rows with one system turn, which is no part of the question."""
    system = {"role": "system", "content": "long and the same " * 9}
    rows = [row(f"r{n}", one) for n, one in enumerate(questions)]
    return [replace(one, prompt=[system, *one.prompt]) for one in rows]


def run(folder, rows, references=None, **options):
    found = screen(rows, references or {}, ScreenOptions(**options), AngleEncoder(), folder, Reporter())
    path = folder / "screen.json"
    return found, json.loads(path.read_text()) if path.is_file() else None


def pairs(summary):
    return [(one["row_id"], one["with"].get("row_id"), one["measure"]) for one in summary["flagged"]]


def test_the_first_of_a_group_stays_and_likeness_does_not_travel_on(tmp_path):
    # 10 degrees are 0.985, 20 degrees 0.940: c is near b, which is a duplicate of a, but not near a
    rows = asking("a? @0", "other?", "b? @10", "c? @20", "A! @0")
    found, summary = run(tmp_path, rows)
    assert found == ([], [])
    assert pairs(summary) == [("r2", "r0", "similarity"), ("r4", "r0", "same_words")]
    assert [one["value"] for one in summary["flagged"]] == [0.9848, 1.0]
    assert (summary["rows"], summary["dropped"], summary["duplicates"], summary["overlap"]) == (5, 0, 2, 0)
    assert pairs(run(tmp_path, rows, duplicate_similarity=0.99)[1]) == [("r4", "r0", "same_words")]


def test_drop_drops_gives_the_reason_and_says_so(tmp_path, capsys):
    found, summary = run(tmp_path, asking("a? @0", "b? @10", "a @0"), duplicates="drop")
    assert (found[0], summary["dropped"]) == ([1, 2], 2)
    assert [bad.reason for bad in found[1]] == [
        "row_id r1: repeats row_id r0 (similarity 0.985); --duplicates flag keeps it",
        "row_id r2: repeats row_id r0 (the same words); --duplicates flag keeps it"]
    assert all(one["dropped"] for one in summary["flagged"])
    assert "near-duplicate questions: 2 dropped" in capsys.readouterr().err


@pytest.mark.parametrize(("off", "counts"), [
    ((), (1, 2)), (("duplicates",), (None, 2)), (("overlap",), (1, None)), (("duplicates", "overlap"), None)])
def test_off_is_off(tmp_path, off, counts):
    found, summary = run(tmp_path, asking("a", "a"), rows_as_references([row("h", "a", "Yes.")]),
                         **dict.fromkeys(off, "off"))
    assert (found[0], summary and (summary["duplicates"], summary["overlap"])) == ([], counts)


LONG = " ".join(f"w{n}" for n in range(30))


def test_overlap_by_words_meaning_and_wording(tmp_path):
    half = " ".join(LONG.split()[:23])  # 11 of the reference's sequences, and 4 more of its own
    rows = [row("copied", "one?", f"So it is: {LONG} and so on"), row("half", "two?", half + " a b c d"),
            row("fine", "three?", " ".join(LONG.split()[:12])), row("near", "four? @0"), row("same", "Held?"),
            row("prompt", "five? @90")]
    references = rows_as_references([row("h1", "held?", LONG), row("h2", "h? @10", "Something else.")]) | {
        "Exam": [Reference("unlike", "", {"suite": "Exam", "index": 0}),
                 Reference("like @91", "", {"suite": "Exam", "index": 1})]}
    found, summary = run(tmp_path, rows, references, overlap="drop")
    assert [(one["row_id"], one["with"], one["measure"], one["value"]) for one in summary["flagged"]] == [
        ("copied", {"suite": "held-out rows", "row_id": "h1"}, "ngrams", 0.9474),  # 18 of 19: it has "held"
        ("half", {"suite": "held-out rows", "row_id": "h1"}, "ngrams", 0.6875),  # 11 of its own 16
        ("near", {"suite": "held-out rows", "row_id": "h2"}, "similarity", 0.9848),
        ("same", {"suite": "held-out rows", "row_id": "h1"}, "same_words", 1.0),
        ("prompt", {"suite": "Exam", "index": 1}, "similarity", 0.9998)]
    assert found[0] == [0, 1, 3, 4, 5]
    assert summary["compared_with"] == {"held-out rows": 2, "Exam": 2}
    assert found[1][-1].reason == (
        "row_id prompt: repeats index 1 of Exam (similarity 1.000); --overlap flag keeps it")
    assert "row_id copied: repeats row_id h1 of held-out rows (95% of" in found[1][0].reason


def test_train_compares_with_held_out_rows_and_keeps_a_list_of_what_it_drops(tmp_path):
    data = Data(asking("a? @0", "b?", "c? @60"), [row("h", "held? @10")], False, 3)
    (tmp_path / "rejected.jsonl").write_text('{"file": "rows", "line": 7, "reason": "bad"}\n')

    def screened(**options):
        return screen_rows(data, ScreenOptions(**options), {}, AngleEncoder(), tmp_path, Reporter())

    assert screened() is data
    left = screened(overlap="drop")
    assert ([one.row_id for one in left.train], left.heldout) == (["r1", "r2"], data.heldout)
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert reasons == ["bad", "row_id r0: repeats row_id h of held-out rows (similarity 0.985); "
                              "--overlap flag keeps it"]
    data = replace(data, train=data.train[:1])
    with pytest.raises(UserError, match="no row is left to train on"):
        screened(overlap="drop")


def test_the_report_counts_what_was_found(tmp_path):
    rows = [row("<b>1", "a"), row("<b>2", "A?")]
    run(tmp_path, rows, rows_as_references([row("<i>h", "x")]))
    text = write_refine_report(tmp_path).read_text()
    assert "<td>near-duplicate questions</td><td>1 of 2</td><td>flag</td>" in text
    assert "overlap with held-out rows" in text


@pytest.mark.parametrize(("count", "k"), [(500, 7), (98, 1), (3, 5), (0, 2)])
@pytest.mark.parametrize("engine", ["torch", "faiss"])
def test_neighbours_are_those_that_sorting_finds(tmp_path, monkeypatch, count, k, engine):
    """By both engines, over several blocks, also of a read-only file with a part of the vectors left out."""
    pytest.importorskip(engine)
    monkeypatch.setattr(screening, "_by_torch", getattr(screening, f"_by_{engine}"))
    monkeypatch.setattr(screening, "_by_faiss", getattr(screening, f"_by_{engine}"))
    monkeypatch.setattr(screening, "BASE_ROWS", 97)
    rng = np.random.default_rng(0)
    base, queries = (unit(rng.normal(size=(number, 16))) for number in (count, 37))
    np.save(tmp_path / "vectors.npy", base)
    exact = queries.astype(np.float64) @ base.astype(np.float64).T
    for among in (None, rng.random(count) < 0.5):
        scores, ids = nearest(queries, np.load(tmp_path / "vectors.npy", mmap_mode="r"), k, "cpu", among)
        right = exact if among is None else np.where(among, exact, -np.inf)
        best = np.argsort(-right, axis=1)[:, : min(k, int((right > -np.inf).sum(1).max(initial=0)))]
        assert np.array_equal(ids, best)
        np.testing.assert_allclose(scores, np.take_along_axis(right, best, 1), atol=1e-5)


@pytest.mark.parametrize("block", [1, 3, 1024])
def test_duplicates_are_those_that_comparing_one_by_one_finds(tmp_path, monkeypatch, block):
    monkeypatch.setattr(screening, "BLOCK", block)
    draw = np.random.default_rng(1)
    degrees = [round(float(one), 1) for one in draw.uniform(0, 180, 60)]
    kept, expected = [], []
    for at, own in enumerate(degrees):
        gaps = [round(float(np.cos(np.radians(own - degrees[other]))), 4) for other in kept]
        if gaps and max(gaps) >= 0.99:
            expected.append((f"r{at}", f"r{kept[int(np.argmax(gaps))]}", "similarity"))
        else:
            kept.append(at)
    rows = asking(*(f"x{at}? @{own}" for at, own in enumerate(degrees)))
    assert pairs(run(tmp_path, rows, duplicate_similarity=0.99)[1]) == expected
    assert 10 < len(expected) < 50


TEXTS = ["one", "two", "three"]


class Counting:
    """Vectors that differ; remembers how many texts it was given."""

    identity, device, texts = "counting", "cpu", 0

    def embed(self, texts):
        self.texts += len(texts)
        return unit(np.float32([[len(text), ord(text[-1])] for text in texts]))


def embed(folder, encoder=None):
    return embed_to_file(TEXTS, encoder or Counting(), folder / "golds.npy")


@pytest.mark.parametrize("garbage", [b"", None, b"PK\x03\x04" + bytes(40)], ids=["empty", "cut", "zip"])
def test_vectors_that_cannot_be_read_are_made_again(tmp_path, garbage):
    before, path = np.array(embed(tmp_path)), tmp_path / "golds.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] if garbage is None else garbage)
    encoder = Counting()
    for _ in range(2):
        assert (np.array(embed(tmp_path, encoder)) == before).all()
        assert encoder.texts == len(TEXTS)  # and kept then
        assert path.read_bytes() == whole
    encoder.identity = "another"
    embed(tmp_path, encoder)
    assert encoder.texts == 2 * len(TEXTS)


def test_a_disk_that_was_full_at_any_moment_spoils_no_vectors(tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    with calls(tmp_path / "whole", monkeypatch) as seen:
        before = np.array(embed(tmp_path / "whole"))
    assert len(seen) > 4
    for at, call in enumerate(seen):
        folder = tmp_path / str(at)
        folder.mkdir()
        full = OSError(errno.ENOSPC, "No space left on device")
        with suppress(OSError), fault(folder, monkeypatch, at, full):
            embed(folder)
        assert not list(folder.glob(".partial*"))  # what is half written takes no room
        assert (np.array(embed(folder)) == before).all(), call
        assert {path.name for path in folder.iterdir()} == {"golds.npy"}
