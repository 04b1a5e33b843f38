"""Every Triton kernel ahead of time, for GPUs that need not be here.

    python -m benchmarks.compile_report [--json FILE] [--target sm_90] [--kernel _filter]

For sm_80, sm_90 and sm_100: registers, stack (a spill), shared memory and, in kernels with a
product, the tensor-core instruction. Exit code 1 on a spill or a missing instruction.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # before the import: kernels must be compilable here
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # its default is about to change

import triton
from raft_kernels import triton_sampled, triton_select, triton_tiles
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks import measure

TARGETS = {"sm_80": 80, "sm_90": 90, "sm_100": 100}
TENSOR_CORE = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05"}
INTEGERS = {
    "columns": "i32", "stride": "i32", "first_id": "i32", "id_step": "i32", "k": "i32",
    "d": "i32", "n": "i32", "width": "i32",
}


def main() -> None:
    """Compile everything, print a table, exit 1 where a kernel spills or lacks its instruction."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--kernel", help="only this one")
    args = parser.parse_args()
    rows = [_compile(*variant, target) for variant in variants() for target in TARGETS
            if args.target in (None, target) and args.kernel in (None, variant[0].__name__)]
    _print(rows)
    if args.json:
        args.json.write_text(json.dumps({"command": "python -m benchmarks.compile_report",
                                         "triton": triton.__version__, "rows": rows}, indent=1))
    bad = [row for row in rows if row["stack"] or row["spills"] or row["tensor_core"] == "missing"]
    for row in bad:
        print(f"error: {row['kernel']} {row['constants']} on {row['target']}: stack {row['stack']}"
              f" bytes, tensor core {row['tensor_core']}")
    raise SystemExit(1 if bad else 0)


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], int]]:
    """(kernel, pointer types, constants, warps) of each configuration the launchers choose."""
    for k, vocab, bias, cap in ((512, 128256, False, False), (2048, 262144, True, True)):
        capacity = triton_select.candidates(k)
        sizes = dict(ID_BITS=(vocab - 1).bit_length(), CAPACITY=capacity)
        warps = triton_select.warps(capacity)
        state = dict(keys_ptr="*i64", sum_ptr="*fp32", count_ptr="*i32")
        yield (triton_select._filter,
               dict(logits_ptr="*fp32", bias_ptr="*bf16", max_ptr="*fp32", threshold_ptr="*i64",
                    **state),
               dict(HAS_BIAS=bias, HAS_SOFTCAP=cap, BLOCK=triton_select.BLOCK, **sizes), warps)
        yield (triton_select._finish,
               dict(ids_ptr="*i64", top_ptr="*fp32", log_sum_ptr="*fp32", **state),
               dict(K_PADDED=triton.next_power_of_2(k), **sizes), warps)
    blocks = dict(BLOCK_K=triton_sampled.BLOCK_K, BLOCK_D=triton_sampled.BLOCK_D)
    entries = dict(BLOCK_E=triton_sampled.BLOCK_K, BLOCK_D=triton_sampled.BLOCK_D)
    for dtype in ("*bf16", "*fp16", "*fp32"):
        yield (triton_sampled._logits,
               dict(hidden_ptr=dtype, weight_ptr=dtype, ids_ptr="*i64", active_ptr="*u8",
                    out_ptr="*fp32"), dict(HAS_ACTIVE=True, **blocks), 4)
        yield (triton_sampled._grad_hidden,
               dict(grad_ptr="*fp32", weight_ptr=dtype, ids_ptr="*i64", out_ptr=dtype), blocks, 4)
        yield (triton_sampled._grad_weight,
               dict(grad_ptr="*fp32", hidden_ptr=dtype, order_ptr="*i64", starts_ptr="*i64",
                    out_ptr=dtype), entries, 4)
        if dtype == "*fp32":
            continue
        tiles = dict(TILE=triton_tiles.TILE, BLOCK_U=triton_tiles.BLOCK_U,
                     BLOCK_D=triton_tiles.BLOCK_D)
        union = dict(weight_ptr=dtype, union_ptr="*i64", counts_ptr="*i32")
        yield (triton_tiles._tile_logits, dict(hidden_ptr=dtype, out_ptr="*fp32", **union),
               tiles, 4)
        yield (triton_tiles._tile_grad_hidden,
               dict(grad_ptr=dtype, scale_ptr="*fp32", out_ptr=dtype, **union), tiles, 4)


def _compile(
    kernel: Any, pointers: dict[str, str], constants: dict[str, Any], warps: int, target: str
) -> dict[str, Any]:
    signature, attributes = {}, {}
    fixed = dict(constants)
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith(("_hd", "_wd")):  # rows are contiguous: what the launcher specialises on
            signature[name], fixed[name] = "constexpr", 1
        else:
            scalar = INTEGERS.get(name, "i32" if name.startswith("stride") else "fp32")
            signature[name] = pointers.get(name, scalar)
            if name in pointers or name.startswith("stride") or name in ("d", "width"):
                attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attributes)
    built = triton.compile(source, target=GPUTarget("cuda", TARGETS[target], 32),
                           options={"num_warps": warps})
    usage = _usage(built.asm["cubin"])
    has_product = "tt.dot" in built.asm["ttir"]
    found = TENSOR_CORE[target] in built.asm["ptx"]
    return {
        "kernel": kernel.__name__, "target": target, "warps": warps,
        "dtype": (pointers.get("weight_ptr") or pointers.get("hidden_ptr") or "").lstrip("*"),
        "constants": " ".join(f"{k}={int(v)}" for k, v in constants.items()),
        "shared": built.metadata.shared, **usage,
        "tensor_core": ("yes" if found else "missing") if has_product else "no product",
    }


def _usage(cubin: bytes) -> dict[str, int]:
    """Registers and stack from the wheel's own cuobjdump; spills from loads of local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        dump = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True,
                              text=True, check=True).stdout
        sass = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True).stdout
    numbers = {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", dump)}
    local = len(re.findall(r"\b(?:LDL|STL)\b", sass))
    return {"registers": numbers["reg"], "stack": numbers["stack"], "spills": local}


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{measure.command()} (Triton {triton.__version__})")
    columns = list(rows[0])
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
