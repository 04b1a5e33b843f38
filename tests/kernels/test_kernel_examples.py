"""The trainers in examples/ train a tiny model: the KL to a frozen teacher falls."""

import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
import torch
from tiny import make_model, make_tokenizer

sys.path.append(str(Path(__file__).parents[2] / "examples"))
VOCAB, K, ROWS = 64, 16, 16
_model = partial(make_model, vocab_size=VOCAB)


def needs(module):
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")


def _rows():
    """Each answer after a short prompt for the student and after a longer one for the teacher."""
    torch.manual_seed(0)
    answers, short, long = (torch.randint(0, VOCAB, (ROWS, n)) for n in (5, 3, 7))
    rows = []
    for answer, prompt, privileged in zip(answers, short, long, strict=True):
        row = {"input_ids": torch.cat([prompt, answer]),
               "teacher_input_ids": torch.cat([privileged, answer])}
        row["attention_mask"] = torch.ones(8, dtype=torch.int64)
        row["labels"] = torch.cat([torch.full((3,), -100), answer])
        for name, ids in (("reads", "input_ids"), ("teacher_reads", "teacher_input_ids")):
            at = torch.arange(len(row[ids]))
            row[name] = (at >= len(row[ids]) - 6) & (at < len(row[ids]) - 1)
        rows.append(row)
    return rows


def _batch(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@torch.no_grad()
def _kl(student, teacher):
    from raft_kernels import topk_kl_loss, topk_targets

    batch = _batch(_rows())
    seen = teacher.base_model(batch["teacher_input_ids"]).last_hidden_state
    targets = topk_targets(seen[batch["teacher_reads"]], teacher.lm_head.weight, K)
    hidden = student.base_model(batch["input_ids"]).last_hidden_state[batch["reads"]]
    return topk_kl_loss(hidden, student.lm_head.weight, targets).item()


@pytest.fixture
def models():
    student, teacher = _model(0), _model(1)
    before = _kl(student, teacher)
    frozen = {name: value.clone() for name, value in teacher.state_dict().items()}
    yield student, teacher
    assert _kl(student, teacher) < 0.9 * before
    assert all(torch.equal(value, frozen[name]) for name, value in teacher.state_dict().items())


def test_plain_loop(models):
    from plain_loop import train_step

    student, teacher = models
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for _ in range(10):
        train_step(student, teacher, _batch(_rows()), optimizer, kl_weight=10.0, k=K)


def _arguments(kind, folder, **more):
    return kind(**{
        "output_dir": str(folder), "max_steps": 10, "learning_rate": 1e-2, "use_cpu": True,
        "per_device_train_batch_size": 8, "remove_unused_columns": False, "report_to": [],
        "save_strategy": "no", "disable_tqdm": True, "lr_scheduler_type": "constant"} | more)


@pytest.fixture
def hf_trainer(tmp_path):
    """(student, teacher, rows, options of TrainingArguments) -> the example's trainer."""
    from transformers import TrainingArguments
    from transformers_trainer import DistillingTrainer

    return lambda student, teacher, rows=None, **options: DistillingTrainer(
        student, _arguments(TrainingArguments, tmp_path, **options), data_collator=_batch,
        train_dataset=rows or _rows(), teacher=teacher, k=K)


def test_transformers_trainer_accumulates_as_one_batch(hf_trainer):
    """One step of 8 x 1 and of 2 x 4 rows whose answers differ in length: the same gradient."""
    rows = _rows()[:8]
    for i, row in enumerate(rows):
        cut = i % 4  # the first `cut` answer tokens are not learnt
        for name in ("reads", "teacher_reads"):
            row[name][row[name].nonzero()[:cut, 0]] = False
        row["labels"][3 : 3 + cut] = -100
    after = []
    for size, steps in ((8, 1), (2, 4)):
        student = _model(0)
        hf_trainer(student, _model(1), rows, max_steps=1, learning_rate=0.1, optim="sgd", max_grad_norm=0.0,
                   per_device_train_batch_size=size, gradient_accumulation_steps=steps).train()
        after.append(student.state_dict())
    before = _model(0).state_dict()
    for name, one in after[0].items():
        torch.testing.assert_close(
            after[1][name] - before[name], one - before[name], rtol=1e-2, atol=1e-6)


def test_transformers_trainer_over_processes(hf_trainer):
    """Tokens are counted over all processes and gradients averaged: the loss of one batch is its mean."""
    from accelerate import Accelerator

    student, batch = _model(0), _batch(_rows())
    trainer = hf_trainer(student, _model(1))

    def loss(processes):
        with mock.patch.object(Accelerator, "num_processes", processes):
            return trainer.compute_loss(student, batch, num_items_in_batch=processes * batch["reads"].sum())

    alone = loss(1)
    torch.testing.assert_close(loss(2), alone)
    trainer.args.average_tokens_across_devices = False
    torch.testing.assert_close(loss(2), alone / 2)


@pytest.fixture
def sft_trainer(tmp_path):
    """(student, teacher) -> the example's trainer on the tiny rows."""
    import trl
    from datasets import Dataset
    from transformers import default_data_collator
    from trl_sft import DistillingSFTTrainer

    arguments = _arguments(trl.SFTConfig, tmp_path, bf16=False,
                           dataset_kwargs={"skip_prepare_dataset": True})
    rows = [{name: value.tolist() for name, value in row.items()} for row in _rows()]
    return lambda student, teacher: DistillingSFTTrainer(
        student, arguments, data_collator=default_data_collator, processing_class=make_tokenizer(),
        train_dataset=Dataset.from_list(rows).with_format("torch"), teacher=teacher, kl_weight=10.0, k=K)


@needs("trl")
def test_both_losses_reach_the_gradient_in_trl(sft_trainer):
    """The gradient of cross-entropy + 10 KL, written out."""
    from raft_kernels import topk_kl_loss, topk_targets

    student, teacher, batch = _model(0), _model(1), _batch(_rows())
    sft_trainer(student, teacher).compute_loss(student, dict(batch), False, batch["reads"].sum()).backward()
    same = _model(0)
    hidden = same.base_model(batch["input_ids"]).last_hidden_state[batch["reads"]]
    seen = teacher.base_model(batch["teacher_input_ids"]).last_hidden_state[batch["teacher_reads"]]
    kl = topk_kl_loss(hidden, same.lm_head.weight, topk_targets(seen, teacher.lm_head.weight, K))
    answers = batch["labels"][:, 1:][batch["labels"][:, 1:] != -100]
    (torch.nn.functional.cross_entropy(same.lm_head(hidden), answers) + 10 * kl).backward()
    for one, right in zip(student.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(one.grad, right.grad, rtol=1e-3, atol=1e-6)


@needs("pytorch_lightning")
def test_lightning_module(models):
    import pytorch_lightning as lightning
    from lightning_module import Distilling

    student, teacher = models
    rows = torch.utils.data.DataLoader(_rows(), batch_size=8, collate_fn=_batch)
    lightning.Trainer(max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False,
                      ).fit(Distilling(student, teacher, k=K, lr=1e-2), rows)
