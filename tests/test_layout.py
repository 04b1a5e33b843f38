"""The house stays the house: package layout, light imports, who may know whom."""

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code, cwd=ROOT):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_is_not_a_package():
    """A package called `kernels` on the path would shadow the one transformers imports."""
    assert not (ROOT / "kernels/__init__.py").exists()
    python("from transformers import LlamaConfig, LlamaForCausalLM; LlamaConfig()")


@pytest.mark.parametrize(("code", "heavy"), [
    ("import raft_fast", "triton transformers datasets"), ("import raft_kernels", "triton transformers"),
    ("sys.argv = ['train', '--help']\nfrom raft_fast.train import main\n"
     "try: main()\nexcept SystemExit as stop: assert not stop.code", "torch transformers")])
def test_imports_stay_light(code, heavy):
    python(f"import sys\n{code}\nassert not set({heavy.split()}) & set(sys.modules)")


# who may import whom: each room those before it; refinement and distillation meet in files alone
FLOORS = ["run", "data", "models", "engines", "refinement", "distillation", "recipes", "evaluation", "report"]
STRANGERS = [("refinement", "distillation"), ("evaluation", "raft_kernels"), ("refinement", "raft_kernels")]
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
           for file in (ROOT / "raft_fast").rglob("*.py")}


def imported(file):
    """Every module that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(module):
    return module.split(".")[1] if module.startswith("raft_fast.") else module.split(".")[0]


def test_no_arrow_runs_back_up():
    floors = {name: floor for floor, name in enumerate(FLOORS)}
    wrong = [(module, other) for module, file in MODULES.items() for other in imported(file)
             if room(module) != room(other) and (
                 (room(module) in floors and other.startswith("raft_fast.")
                  and floors.get(room(other), len(floors)) > floors[room(module)])
                 or (room(module), room(other)) in STRANGERS or (room(other), room(module)) in STRANGERS[:1])]
    assert not wrong


def test_no_files_import_each_other():
    follow = {module: {other for other in imported(file) if other in MODULES and other != module}
              for module, file in MODULES.items()}
    TopologicalSorter(follow).prepare()  # raises CycleError with the files


def test_rooms_keep_to_themselves():
    """The kernels know nothing of raft_fast, one file knows templates, and the top floor is small."""
    names = [name for file in (ROOT / "kernels/raft_kernels").rglob("*.py") for name in imported(file)]
    assert not [name for name in names if name.startswith(("raft_fast", "transformers"))]
    assert {file.name for file in MODULES.values() if ".apply_chat_template(" in file.read_text()} == {
        "template.py"}
    assert len({name.split(".")[1] for name in MODULES if "." in name}) <= 14


def test_setup_names_every_package_and_its_data():
    code = ("import sys\nfrom unittest import mock\nimport setuptools\n"
            "with mock.patch('setuptools.setup') as setup: exec(open('setup.py').read())\n"
            "import json; print(json.dumps(setup.call_args.kwargs))")
    setup = json.loads(python(code))
    for package, patterns in setup["package_data"].items():
        folder = ROOT / setup["package_dir"].get(package, package.replace(".", "/"))
        assert all(list(folder.glob(pattern)) for pattern in patterns), package
    assert {"raft_kernels", "raft_fast_configs", "raft_fast.run"} <= set(setup["packages"])


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(
    str(path.relative_to(ROOT)) for room in ("docs", "dev") for path in (ROOT / room).rglob("*.md"))])
def test_what_a_page_links_to_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing
