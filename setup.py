"""Two folders are installed under names of their own.

`kernels/` must never be importable itself: on the working directory's path it would
shadow the package `kernels` that transformers looks for.
"""

from setuptools import find_packages, setup

setup(
    packages=["raft_kernels", *find_packages(include=["raft_fast", "raft_fast.*"]), "raft_fast_configs"],
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
        "raft_fast.report": ["*.jinja", "*.css", "*.yaml", "*.mplstyle"],
        "raft_fast.run": ["*.yaml"],
        "raft_fast_configs": ["*.toml", "*.yaml"],
    },
)
