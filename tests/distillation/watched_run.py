"""A run of six steps on a tiny model, and what it wrote."""

import json

from tiny import make_model, make_rows

from raft_fast.distillation import Teacher, train
from raft_fast.evaluation.during_training import Scorer
from raft_fast.models.chat import View
from raft_fast.recipes import terms_of
from raft_fast.run.options import TrainOptions

OPTIONS = TrainOptions(per_device_train_batch_size=3, num_train_epochs=3, teacher_top_k=16,
                       max_completion_length=8, learning_rate=3e-2, save_steps=2)


def run(folder, chat, callbacks=(), options=OPTIONS, **more):
    folder.mkdir(exist_ok=True)
    student = make_model(0)
    train(student, Teacher(make_model(0), chat, 16, 1.5), chat, make_rows(6),
          terms_of("raft", options), options, 0, folder, callbacks, **more)
    return student


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def make_scorer(chat, original=None):
    rows = make_rows(6)
    return Scorer(chat, [chat.sft_view(row.prompt, row.gold) for row in rows],
                  [View(chat.student_prompt(rows[0].prompt), [70, 71, 72, 2]), View([5], [])],
                  original or make_model(0))
