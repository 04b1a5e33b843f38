"""RAFT from raw rows to a trained, evaluated model: `python -m raft_fast.train`; `trainer.py` says how."""

import sys

from raft_fast.recipes import find
from raft_fast.run.config import GROUPS, parse
from raft_fast.run.errors import entry
from raft_fast.run.option import check_needs
from raft_fast.run.options import Options

DESCRIPTION = """Fine-tune an instruct model on a domain by RAFT. Without options it runs the
quickstart: a small model and data set, minutes on two CPU cores. --data FILE takes your own rows (with
--config raft unless you name another): raw ones go through stage 1 first, refined ones are trained on
as they are. Interrupted, the same command resumes. Started by torchrun or `accelerate launch` it trains
on many GPUs."""


@entry
def main() -> None:
    argv = sys.argv[1:]
    given = {word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--")}
    name, groups = parse("train", DESCRIPTION, GROUPS, argv, "raft" if "data" in given else "quickstart",
                         lambda recipe: find(recipe).defaults)
    check_needs(given, groups)
    options = Options(*groups)
    name = name if "config" in given or "recipe" not in given else find(options.train.recipe).name
    # after --help, which loads no torch
    from raft_fast.run.processes import Processes
    from raft_fast.trainer import RAFTConfig, RAFTTrainer

    trainer = RAFTTrainer(args=RAFTConfig.from_options(options, name))
    trainer.train()
    trainer.evaluate()
    Processes().end()


if __name__ == "__main__":
    main()
