"""A run of six steps on a tiny model, and what it wrote."""

import json

import torch
from tiny import make_model, make_rows

from raft_fast.distillation import Teacher, train
from raft_fast.evaluation.during_training import Scorer
from raft_fast.models.chat import View
from raft_fast.recipes import terms_of
from raft_fast.run.options import TrainOptions

OPTIONS = TrainOptions(per_device_train_batch_size=3, num_train_epochs=3, teacher_top_k=16,
                       max_completion_length=8, learning_rate=3e-2, save_steps=2)
TIMES = {"peak_memory_bytes", *(f"{part}_{measure}" for part in ("rollout", "teacher", "train")
                                for measure in ("seconds", "tokens_per_second"))}


def run(folder, chat, callbacks=(), options=OPTIONS, rows=None, seed=0, **more):
    folder.mkdir(exist_ok=True)
    student = make_model(0)
    teacher = Teacher(make_model(0), chat, options.teacher_top_k, options.distillation_temperature)
    train(student, teacher if options.distillation else None, chat, rows or make_rows(6),
          terms_of("raft", options), options, seed, folder, callbacks, **more)
    return student


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(folder):
    """The metrics of a run that the same seed gives again."""
    return [{key: value for key, value in step.items() if key not in TIMES}
            for step in lines(folder / "metrics.jsonl")]


def same_weights(one, other):
    """Of two state dicts, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def make_scorer(chat, original=None):
    rows = make_rows(6)
    return Scorer(chat, [chat.sft_view(row.prompt, row.gold) for row in rows],
                  [View(chat.student_prompt(rows[0].prompt), [70, 71, 72, 2]), View([5], [])],
                  original or make_model(0))
