"""What can be refused before anything is read, loaded or paid for: packages that are not installed, names of
nothing."""

import importlib.util
from collections.abc import Collection
from pathlib import Path

from raft_fast.data.records import own_file
from raft_fast.engines.load import not_a_server
from raft_fast.run.errors import UserError, require
from raft_fast.run.options import Options


def check_train(options: Options, run_dir: Path, in_memory: Collection[str] = ()) -> None:
    """Raises UserError for what training needs and what is not here. A new run is refused before it has a
    folder; one that is there says itself what has changed. `in_memory`: options that name loaded models."""
    from raft_fast.run.hub import check_upload

    check_packages(options)
    check_upload(options.watch, run_dir)
    if run_dir.exists():
        return
    from raft_fast.models.fetch import own_folder
    from raft_fast.refinement.filter import skipped
    from raft_fast.refinement.roles import check_once

    skipped(options.refine.skip_checks)
    if options.refine.fusion_rounds and options.train.data_source == "fused":
        check_once("--judge", options.refine.judge)
    if options.data.data:
        own_file(options.data.data)
    if "model" not in in_memory:
        own_folder(options.model.model)
    own_folder(options.model.encoder, "--encoder")
    if options.train.distillation and options.train.teacher != "self" and "teacher" not in in_memory:
        own_folder(not_a_server(options.train.teacher), "--teacher")


def check_packages(options: Options) -> None:
    """Raises UserError where a package is missing that would be asked for after stage 1, hours later."""
    from raft_fast.distillation.watching import find_trackers
    from raft_fast.models.load import pick_device, quantization_config

    train = options.train
    find_trackers(options.watch.report_to)
    if options.adapter.use_peft:
        require("peft", "lora")
    if not train.distillation:
        return
    quantization_config(train.teacher_quantization, pick_device(options.model.device))
    packages = {"vllm": ("vllm",), "vllm_server": ("trl", "vllm")}.get(train.rollout_engine, ())
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(f"--rollout_engine {train.rollout_engine}: {' and '.join(missing)} not installed: "
                        f"pip install {' '.join(missing)}")
