"""TopKTargets.save and load: what comes back, in how few bytes, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_kernels import TopKTargets
from safetensors.torch import load_file, save_file

INF, NAN = float("inf"), float("nan")
ABOUT = {"format": "raft_kernels.topk_targets/1", "temperature": 1.5, "over_vocabulary": True,
         "vocab_size": 9}
TENSORS = {"ids": torch.tensor([[3, 8]]).int(), "logprobs": torch.tensor([[-0.5, -1.0]])}


def _file(path, tensors=None, about=None):
    save_file(TENSORS | (tensors or {}), path, metadata={"topk_targets": json.dumps(ABOUT | (about or {}))})
    return path


@pytest.mark.parametrize(("tensors", "about", "reason"), [
    ({}, {"format": "another"}, "its format is not"), ({}, {"temperature": 0.0}, "temperature was 0.0"),
    ({}, {"vocab_size": 8}, "ids was from 3 to 8; it must be from 0 to 7"),
    ({}, {"vocab_size": None}, "its metadata is"),
    ({"ids": torch.empty(0, 2).int(), "logprobs": torch.empty(0, 2)}, {"vocab_size": -7},
     "vocab_size was -7; it must be an int of at least 0"),
    ({}, {"more": 1}, r"its metadata holds .*'more'"),
    ({"more": torch.ones(1)}, {}, r"it holds \['ids', 'logprobs', 'more'\]"),
    ({"ids": torch.tensor([[3.0, 8.0]])}, {}, "its ids are torch.float32"),
    ({"ids": torch.tensor([[3, 3]])}, {}, "ids was repeated within a row"),
    ({"logprobs": torch.ones(1, 2).half()}, {}, "its logprobs are torch.float16"),
    ({"logprobs": torch.ones(1, 2).half(), "best": torch.ones(1, 2)}, {},
     r"its best are torch.float32 of shape \[1, 2\]"),
])
def test_a_wrong_file_is_refused_by_name(tmp_path, tensors, about, reason):
    path = _file(tmp_path / "wrong.safetensors", tensors, about)
    with pytest.raises(ValueError, match=rf"^path was .*wrong.safetensors.*{reason}"):
        TopKTargets.load(path)


def test_other_files_and_one_cut_anywhere_are_refused_by_name(tmp_path):
    path = tmp_path / "other"
    whole = _file(path).read_bytes()
    for content in ({}, {"topk_targets": "{"}, {"topk_targets": "[" * 100_000}):
        save_file({"ids": torch.zeros(1)}, path, metadata=content)
        with pytest.raises(ValueError, match=r"^path was .*other .*; it must be a file written"):
            TopKTargets.load(path)
    for cut in (b"not a tensor file", *(whole[:length] for length in range(0, len(whole), 7))):
        path.write_bytes(cut)
        with pytest.raises(ValueError, match=r"^path was .*other"):
            TopKTargets.load(path)
    with pytest.raises(ValueError, match=f"^path was {tmp_path}"):
        TopKTargets.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TopKTargets.load(tmp_path / "nowhere")


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    import safetensors.torch

    path = _file(tmp_path / "kept")
    before = path.read_bytes()

    def fail(tensors, name, metadata):
        Path(name).write_bytes(b"half of")
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        TopKTargets(torch.tensor([[1, 2]]), torch.zeros(1, 2), 1.0).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_that_are_not_finite_come_back(tmp_path, dtype):
    logprobs = torch.tensor([
        [-0.5, -1.0, -2.0], [-0.5, -INF, -INF], [-INF, -INF, -INF], [NAN, NAN, NAN],
        [NAN, -1.0, -INF], [-0.5, -1e6, -INF]])
    ids = torch.arange(3).expand(6, 3)
    TopKTargets(ids, logprobs, 1.5).save(tmp_path / "x", dtype)
    got = TopKTargets.load(tmp_path / "x").logprobs
    torch.testing.assert_close(got[:5], logprobs[:5], equal_nan=True, rtol=1e-3, atol=0)
    assert got[5, 1] <= -65504
    assert got[5, 1].isfinite()
    assert got[5, 2] == -INF


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_is_saved_comes_back(tmp_path_factory, data):
    """Any shape, any size of vocabulary around the edges of the integers, both precisions, few bytes."""
    vocab, size = data.draw(st.sampled_from([(2, 1), (255, 1), (256, 1), (257, 2), (65535, 2), (65536, 2),
                                             (65537, 4), (2**31, 4), (2**31 + 1, 8)]))
    shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
    k = data.draw(st.integers(2, min(vocab, 9)))
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    first = torch.randint(0, vocab - k + 1, shape, generator=seed)
    ids = first.unsqueeze(-1) + torch.arange(k)  # the largest id among them, sometimes
    scale = data.draw(st.sampled_from([1e-3, 1.0, 1e3]))
    logprobs = -(torch.rand(*shape, k, generator=seed) * scale).sort(-1).values
    targets = TopKTargets(ids, logprobs, data.draw(st.floats(0.1, 9)), vocab_size=vocab)
    dtype = data.draw(st.sampled_from([torch.float16, torch.float32]))
    path = tmp_path_factory.mktemp("any") / "targets"
    targets.save(path, dtype)
    assert list(path.parent.iterdir()) == [path]
    got = TopKTargets.load(path)
    assert torch.equal(got.ids, ids)
    assert (got.temperature, got.vocab_size, got.over_vocabulary) == (targets.temperature, vocab, True)
    smallest = 2**-24  # float16's, where relative errors end
    allowed = (logprobs[..., :1] - logprobs) * 2**-11 + 2e-7 * scale + smallest
    assert ((got.logprobs - logprobs).abs() <= (allowed if dtype == torch.float16 else 0)).all()
    assert load_file(path)["ids"].dtype.itemsize == size
