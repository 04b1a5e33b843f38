"""Packages are named one by one, because two folders are installed under other names.

`kernels/` must never be importable itself: on the working directory's path it would
shadow the package `kernels` that transformers looks for.
"""

from setuptools import setup

setup(
    packages=[
        "raft_kernels",
        "raft_fast",
        "raft_fast.data",
        "raft_fast.distillation",
        "raft_fast.distillation.rollouts",
        "raft_fast.engines",
        "raft_fast.evaluation",
        "raft_fast.models",
        "raft_fast.recipes",
        "raft_fast.refinement",
        "raft_fast.refinement.checks",
        "raft_fast.report",
        "raft_fast.run",
        "raft_fast_configs",
    ],
    package_dir={
        "raft_kernels": "kernels/raft_kernels",
        "raft_fast": "raft_fast",
        "raft_fast_configs": "configs",
    },
    package_data={
        "raft_kernels": ["py.typed"],
        "raft_fast": ["py.typed"],
        "raft_fast.engines": ["prompts/*.txt"],
        "raft_fast.refinement.checks": ["*.toml", "phrases/*.toml"],
        "raft_fast.report": ["*.jinja", "*.css"],
        "raft_fast_configs": ["*.toml", "*.yaml"],
    },
)
