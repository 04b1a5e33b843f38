"""Every Triton kernel ahead of time, for GPUs that need not be here.

    python -m benchmarks.compile_report [--quick] [--json FILE] [--target sm_90] [--kernel _filter]

Each variant that the launchers can launch (benchmarks/launches.py), for sm_80, sm_90 and sm_100:
registers, stack, loads of spilled values, shared memory; in kernels with a product the tensor-core
instruction in the PTX and in the machine code; products of offsets in 32 bits, which overflow.
Exit code 1 on a spill, a missing instruction or such a product.
"""

import collections
import json
import multiprocessing
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # before the import: kernels must be compilable here
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # its default is about to change

import triton
from rich.progress import track
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks import launches, measure
from benchmarks.launches import Variant

TARGETS = {"sm_80": 80, "sm_90": 90, "sm_100": 100}
TENSOR_CORE = {  # in PTX, in machine code
    "sm_80": ("mma.sync", "HMMA"), "sm_90": ("wgmma", "HGMMA"), "sm_100": ("tcgen05", "UTCHMMA")}
COLUMNS = ("kernel", "target", "pointers", "constants", "warps", "registers", "stack", "spills",
           "shared", "tensor_core", "narrow_offsets")


def main() -> None:
    """Compile everything, print a table, exit 1 where something is wrong with a kernel."""
    parser = measure.parser(__doc__)
    parser.add_argument("--quick", action="store_true",
                        help="a choice of the variants: about a minute and a half on two cores")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--kernel", choices=launches.KERNELS, help="only this one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    work = [(variant, target) for variant in launches.choices(args.quick) for target in TARGETS
            if args.target in (None, target) and args.kernel in (None, variant.kernel)]
    with multiprocessing.Pool(args.jobs) as pool:
        rows = list(track(pool.imap(_compile, work), "compiling", total=len(work)))
    measure.show(f"{measure.command()} (Triton {triton.__version__})", COLUMNS,
                 ([row[column] or 0 for column in COLUMNS] for row in rows), width=200)
    wrong = [complaint for row in rows for complaint in complaints(row)]
    if args.json:
        report = {"command": measure.command(), "machine": measure.machine("cpu"),
                  "triton": triton.__version__, "wrong": wrong, "rows": rows}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    for complaint in wrong:
        print(f"error: {complaint}")
    raise SystemExit(1 if wrong else 0)


def complaints(row: dict[str, Any]) -> list[str]:
    """What is wrong with a compiled kernel, in words."""
    found = []
    if row["spills"]:  # a stack that nothing loads or stores costs nothing
        found.append(f"{row['spills']} loads or stores of spilled registers, {row['stack']} bytes of stack")
    if "missing" in row["tensor_core"]:
        found.append(f"tensor-core instruction: {row['tensor_core']}")
    found += [f"offset in 32 bits: {line}" for line in row["narrow_offsets"]]
    about = f"{row['kernel']} {row['pointers']} {row['constants']} on {row['target']}"
    return [f"{about}: {what}" for what in found]


def narrow_offsets(ttir: str) -> list[str]:
    """Products of two run-time numbers in 32 bits: N x V or V x D overflows them.

    Everything an address is made of starts at a program's number or a stride, so one factor must
    have been widened. A product with a constant counts places within a row.
    """
    constants = set(re.findall(r"(%\S+) = arith\.constant", ttir))
    products = re.findall(r"arith\.muli (%\w+), (%\w+)[^:]* : (?:tensor<[\dx]+x)?i32", ttir)
    return [f"{a} * {b}" for a, b in products if not constants & {a, b}]


def _compile(work: tuple[Variant, str]) -> dict[str, Any]:
    variant, target = work
    _, kernel = launches.KERNELS[variant.kernel]
    options, constants = dict(variant.options), dict(variant.constants)
    source = ASTSource(
        fn=kernel, signature=dict(variant.signature), constexprs=constants,
        attrs={(place,): [["tt.divisibility", 16]] for place in variant.aligned})
    built = triton.compile(source, target=GPUTarget("cuda", TARGETS[target], 32), options=options)
    machine_code, usage = _disassembled(built.asm["cubin"])
    in_ptx, in_sass = TENSOR_CORE[target]
    found = collections.Counter(re.findall(rf"\b{in_sass}\b", machine_code))[in_sass]
    if "tt.dot" not in built.asm["ttir"]:
        tensor_core = "no product"
    elif in_ptx not in built.asm["ptx"]:
        tensor_core = f"{in_ptx} missing"
    else:
        tensor_core = f"{found} {in_sass}" if found else f"{in_sass} missing"
    signature = dict(variant.signature)
    return {
        "kernel": variant.kernel, "target": target,
        "pointers": " ".join(f"{n.removesuffix('_ptr')}:{t[1:]}" for n, t in signature.items()
                             if t.startswith("*")),
        "integers": " ".join(f"{n}:{t}{'/16' if place in variant.aligned else ''}"
                             for place, (n, t) in enumerate(signature.items()) if t[0] == "i"),
        "constants": " ".join(f"{n}={int(v)}" for n, v in constants.items() if v is not None),
        "warps": options["num_warps"], "stages": options.get("num_stages"), **usage,
        "shared": built.metadata.shared, "tensor_core": tensor_core,
        "narrow_offsets": narrow_offsets(built.asm["ttir"]),
    }


def _disassembled(cubin: bytes) -> tuple[str, dict[str, int]]:
    """The machine code, and registers, stack and spills, from the wheel's own cuobjdump."""
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        dump, machine_code = (
            subprocess.run([tool, what, file.name], capture_output=True, text=True, check=True).stdout
            for what in ("--dump-resource-usage", "-sass"))
    if "EXIT" not in machine_code:
        raise SystemExit(f"error: {tool} -sass printed no machine code; is nvdisasm beside it?")
    numbers = {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", dump)}
    spills = len(re.findall(r"\b(?:LDL|STL)\b", machine_code))
    return machine_code, {"registers": numbers["reg"], "stack": numbers["stack"], "spills": spills}


if __name__ == "__main__":
    main()
