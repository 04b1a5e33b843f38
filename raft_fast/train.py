"""RAFT from raw rows to a trained, evaluated model: `python -m raft_fast.train`; `trainer.py` says how."""

import sys

from raft_fast.data.dataset import only_prompts
from raft_fast.recipes import find
from raft_fast.run.config import GROUPS, parse
from raft_fast.run.errors import entry
from raft_fast.run.option import check_needs
from raft_fast.run.options import Options

DESCRIPTION = """Fine-tune an instruct model on a domain by RAFT. Without options it runs the
quickstart: a small model and data set, minutes on two CPU cores. --data FILE takes your own rows (and
--config raft where you name no other): raw ones go through stage 1 first, refined ones are trained on
as they are. Interrupted, the same command goes on where it stopped. Started by torchrun or
`accelerate launch` it trains on many GPUs."""


@entry
def main() -> None:
    argv = sys.argv[1:]
    given = {word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--")}
    name, options = read(argv, "raft" if "data" in given else "quickstart")
    check_needs(given, options.groups)
    if "data" in given and not given & {"config", "recipe"} and options.train.teacher != "self" and (
            only_prompts(str(options.data.data))):
        name, options = read(["--sft", "false", *argv], "on_policy")
    from raft_fast.trainer import RAFTConfig, RAFTTrainer  # after --help, which loads no torch

    trainer = RAFTTrainer(args=RAFTConfig.from_options(options, name))
    trainer.train()
    trainer.evaluate()
    trainer.end()


def read(argv: list[str], default: str) -> tuple[str, Options]:
    """The name of the configuration, `default` without --config, and the options."""
    name, groups = parse("train", DESCRIPTION, GROUPS, argv, default, lambda recipe: find(recipe).defaults)
    return name, Options(*groups)


if __name__ == "__main__":
    main()
