"""The house stays the house: package layout, light imports, who may know whom."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code, cwd=ROOT):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd,
                          check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_is_not_a_package():
    """A package called `kernels` on the path would shadow the one transformers imports."""
    assert not (ROOT / "kernels/__init__.py").exists()
    python("from transformers import LlamaConfig, LlamaForCausalLM; LlamaConfig()")


@pytest.mark.parametrize("package", ["raft_fast", "raft_kernels"])
def test_imports_stay_light(package):
    python(f"import sys, {package}\n"
           "assert not {'triton', 'transformers', 'datasets', 'faiss'} & set(sys.modules)")


def test_help_is_light():
    python("import sys\nsys.argv = ['train', '--help']\nfrom raft_fast.train import main\n"
           "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
           "assert not {'torch', 'transformers'} & set(sys.modules)")


def imported(folder):
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield file, node.module
            elif isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)


@pytest.mark.parametrize(("folder", "forbidden"), [
    ("kernels/raft_kernels", ["raft_fast", "transformers"]),
    ("raft_fast/refinement", ["raft_fast.distillation", "raft_kernels"]),
    ("raft_fast/distillation", ["raft_fast.refinement", "raft_fast.evaluation"]),
    ("raft_fast/engines", ["raft_fast.refinement", "raft_fast.distillation", "raft_kernels"]),
])
def test_rooms_do_not_know_each_other(folder, forbidden):
    wrong = [(str(file), module) for file, module in imported(folder)
             if any(module == name or module.startswith(name + ".") for name in forbidden)]
    assert not wrong


def test_only_chat_knows_templates():
    users = {file.name for folder in ("raft_fast",) for file in (ROOT / folder).rglob("*.py")
             if ".apply_chat_template(" in file.read_text()}
    assert users == {"template.py"}


def test_setup_names_every_package_and_its_data():
    code = ("import sys\nfrom unittest import mock\nimport setuptools\n"
            "with mock.patch('setuptools.setup') as setup: exec(open('setup.py').read())\n"
            "import json; print(json.dumps(setup.call_args.kwargs))")
    setup = json.loads(python(code))
    packages = setup["packages"]
    for package, patterns in setup["package_data"].items():
        folder = ROOT / setup["package_dir"].get(package, package.replace(".", "/"))
        assert all(list(folder.glob(pattern)) for pattern in patterns), package
    folders = {str(file.parent.relative_to(ROOT)).replace("/", ".")
               for file in (ROOT / "raft_fast").rglob("__init__.py")}
    assert folders <= set(packages)
    assert "raft_kernels" in packages
    assert not any(name.split(".")[0] == "kernels" for name in packages)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))])
def test_what_a_page_links_to_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing
