"""The trainers in examples/ train a tiny model: the KL to a frozen teacher falls."""

import sys
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from raft_kernels import topk_kl_loss, topk_targets
from tiny import make_model, make_tokenizer

sys.path.append(str(Path(__file__).parents[2] / "examples"))
VOCAB, K, ROWS = 64, 16, 16
_model = partial(make_model, vocab_size=VOCAB)


def _batch():
    """Each answer after a short prompt for the student and after a longer one for the teacher."""
    torch.manual_seed(0)
    answers, short, long = (torch.randint(0, VOCAB, (ROWS, n)) for n in (5, 3, 7))
    batch = {"attention_mask": torch.ones(ROWS, 8, dtype=torch.int64),
             "labels": torch.cat([torch.full_like(short, -100), answers], 1)}
    for view, prompt in (("", short), ("teacher_", long)):
        at = torch.arange(prompt.shape[1] + 5).expand(ROWS, -1)
        batch[f"{view}input_ids"] = torch.cat([prompt, answers], 1)
        batch[f"{view}reads"] = (at >= prompt.shape[1] - 1) & (at < at.shape[1] - 1)
    return batch


def _rows(batch):
    return [{name: value[row] for name, value in batch.items()} for row in range(ROWS)]


def _stacked(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _losses(student, teacher, batch):
    """Cross-entropy of the answers and KL, written out."""
    seen = teacher.base_model(batch["teacher_input_ids"]).last_hidden_state[batch["teacher_reads"]]
    hidden = student.base_model(batch["input_ids"]).last_hidden_state[batch["reads"]]
    answers = batch["labels"][:, 1:][batch["labels"][:, 1:] != -100]
    targets = topk_targets(seen.detach(), teacher.lm_head.weight, K)
    return (torch.nn.functional.cross_entropy(student.lm_head(hidden), answers),
            topk_kl_loss(hidden, student.lm_head.weight, targets))


@pytest.fixture
def models():
    student, teacher = _model(0), _model(1)
    before = _losses(student, teacher, _batch())[1].item()
    frozen = {name: value.clone() for name, value in teacher.state_dict().items()}
    yield student, teacher
    assert _losses(student, teacher, _batch())[1].item() < 0.9 * before
    assert all(torch.equal(value, frozen[name]) for name, value in teacher.state_dict().items())


def test_plain_loop(models):
    from plain_loop import train_step

    optimizer = torch.optim.AdamW(models[0].parameters(), lr=1e-2)
    for _ in range(10):
        train_step(*models, _batch(), optimizer, kl_weight=10.0, k=K)


def test_lightning_module(models):
    lightning = pytest.importorskip("pytorch_lightning")
    from lightning_module import Distilling

    rows = torch.utils.data.DataLoader(_rows(_batch()), batch_size=8, collate_fn=_stacked)
    lightning.Trainer(max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False,
                      ).fit(Distilling(*models, k=K, lr=1e-2), rows)


@pytest.fixture
def arguments(tmp_path):
    return {"output_dir": str(tmp_path), "use_cpu": True, "remove_unused_columns": False, "report_to": [],
            "save_strategy": "no", "disable_tqdm": True, "lr_scheduler_type": "constant"}


@pytest.fixture
def hf_trainer(arguments):
    """(student, rows, options of TrainingArguments) -> the example's trainer."""
    from transformers import TrainingArguments
    from transformers_trainer import DistillingTrainer

    return lambda student, rows, **options: DistillingTrainer(
        student, TrainingArguments(**arguments, **options), data_collator=_stacked, train_dataset=rows,
        teacher=_model(1), k=K)


def test_transformers_trainer_over_processes(hf_trainer):
    """Tokens are counted over all processes and gradients averaged: the loss of one batch is its mean."""
    from accelerate import Accelerator

    student, batch = _model(0), _batch()
    trainer = hf_trainer(student, _rows(batch))

    def loss(processes):
        with mock.patch.object(Accelerator, "num_processes", processes):
            return trainer.compute_loss(student, batch, num_items_in_batch=processes * batch["reads"].sum())

    right = _losses(student, _model(1), batch)[1]
    torch.testing.assert_close(loss(1), right)
    torch.testing.assert_close(loss(2), right)
    trainer.args.average_tokens_across_devices = False
    torch.testing.assert_close(loss(2), right / 2)


def test_both_losses_reach_the_gradient_in_trl(arguments):
    """The gradient of cross-entropy + 10 KL."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import default_data_collator
    from trl_sft import DistillingSFTTrainer

    student, same, teacher, batch = _model(0), _model(0), _model(1), _batch()
    rows = Dataset.from_dict({name: value.tolist() for name, value in batch.items()}).with_format("torch")
    trainer = DistillingSFTTrainer(
        student, trl.SFTConfig(**arguments, bf16=False, dataset_kwargs={"skip_prepare_dataset": True}),
        data_collator=default_data_collator, processing_class=make_tokenizer(), train_dataset=rows,
        teacher=teacher, kl_weight=10.0, k=K)
    trainer.compute_loss(student, dict(batch), False, batch["reads"].sum()).backward()
    sft, kl = _losses(same, teacher, batch)
    (sft + 10 * kl).backward()
    for one, right in zip(student.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(one.grad, right.grad, rtol=1e-3, atol=1e-6)
