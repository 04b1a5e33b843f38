"""Is the memory estimate right? What is foretold before a run beside the peak resident memory of two steps.

    python -m benchmarks.memory

Every setting is a process of its own on the CPU, whose allocator gives freed blocks back at once. Both
figures are beyond the loaded models, all of whose pages are in memory when the first one is taken.
"""

import argparse
import json
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks import measure
from benchmarks.step.ours import STILL, TEMPERATURE, Enough, Job, Stopwatch, chat_of, load
from raft_fast.distillation import Adapter, Teacher, estimate
from raft_fast.distillation import measure as count_tokens
from raft_fast.distillation.loop import train
from raft_fast.distillation.metrics import peak_memory
from raft_fast.recipes import terms_of
from raft_fast.run.options import SMOLLM2, AdapterOptions

CPU = torch.device("cpu")
SETTINGS = ("full", "bf16 teacher", "checkpointing", "LoRA")
STEPS = 2  # the second one has the optimizer's state beside its activations


def one_setting(job: Job, setting: str) -> dict[str, Any]:
    """Bytes foretold and measured, in this process."""
    student = load(job, torch.float32, packed=True)
    chat, teaching, weights = chat_of(job, student), None, None
    if setting == "LoRA":
        weights = Adapter(student, AdapterOptions(use_peft=True))
        teacher_model, teaching = student, weights.off
    else:
        dtype = torch.bfloat16 if setting == "bf16 teacher" else torch.float32
        teacher_model = load(job, dtype, packed=True)
    teacher = Teacher(teacher_model, chat, job.top_k, TEMPERATURE, teaching=teaching)
    options = replace(job.options(sft=True), gradient_checkpointing=setting == "checkpointing",
                      learning_rate=STILL)
    terms = terms_of("raft", options)
    lengths = count_tokens(job.table(), chat, terms, options)
    found = estimate(student, teacher_model, lengths, options)
    for parameter in [*student.parameters(), *teacher_model.parameters()]:
        parameter.sum()  # weights of a file are there once they were read
    before = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        train(student, teacher, chat, job.table(), terms, options, job.seed, Path(folder), [Stopwatch(STEPS)],
              weights)
    return {"foretold": found.needed, "measured": peak_memory(CPU) - before,
            "loaded": found.loaded, "peak": peak_memory(CPU),
            "parts": {**found.staying, **found.passing}}


def main() -> None:
    """A line and a case of the JSON for each setting; cases of other settings stay."""
    parser = measure.parser(__doc__, rows=4, max_completion_length=24, top_k=512)
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--only", choices=SETTINGS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        job = Job(args.model, "cpu", args.rows, STEPS, args.max_completion_length, args.top_k)
        print(json.dumps(one_setting(job, args.only)))
        return
    for setting in args.settings:
        one = measure.apart("memory", *sys.argv[1:], "--only", setting, **measure.HONEST_MALLOC)
        print(f"{setting:14} foretold {one['foretold'] / 2**30:.2f} GiB, measured "
              f"{one['measured'] / 2**30:.2f}, {one['foretold'] / one['measured'] - 1:+.0%}", flush=True)
        measure.record(f"memory-{args.model.rsplit('/')[-1].lower()}", "cpu", one, case=setting)


if __name__ == "__main__":
    main()
