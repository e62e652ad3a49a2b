"""The structures of plugins/include/paro/paro_c.h against those that ctypes passes."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from paro_trt.op import c_abi
from paro_trt.op.spec import (
    MASK_WORD_BITS,
    MAX_TOKENS,
    OP_VERSION_2,
    AffineRow,
    op_inputs,
)

INCLUDE = Path(__file__).resolve().parents[2] / "plugins" / "include"
HEADER = INCLUDE / "paro" / "paro_c.h"
STRUCTURES = {"paro_attention": c_abi.CAttention, "paro_launch": c_abi.CLaunch}

PROGRAM = """
#include <stddef.h>
#include <stdio.h>
#include "paro/paro_c.h"
#define FIELD(type, name) \\
  printf("[\\"%s\\", %zu, %zu]", #name, offsetof(type, name), sizeof(((type*)0)->name))
int main(void) {
  printf("{\\"abi\\": %d, \\"statuses\\": [%d, %d, %d, %d, %d, %d],", PARO_ABI_VERSION, PARO_OK,
         PARO_INVALID_ARGUMENT, PARO_UNSUPPORTED, PARO_WORKSPACE_TOO_SMALL, PARO_NO_DEVICE,
         PARO_RUNTIME_ERROR);
  printf("\\"dtypes\\": [%d, %d, %d]", PARO_FLOAT16, PARO_BFLOAT16, PARO_FLOAT32);
  printf(",\\"affine_rows\\": [%d, %d, %d, %d],", PARO_KEY_MEAN, PARO_EQUALIZER, PARO_VALUE_MEAN,
         PARO_VALUE_SCALE);
  printf("\\"constants\\": [%d, %d, %d]", PARO_AFFINE_ROWS, PARO_MASK_WORD_BITS, PARO_MAX_TOKENS);
  BODY
  puts("}");
  return 0;
}
"""


def members(structure: str) -> list[str]:
    """Names of a structure's members, in the header's order."""
    (body,) = re.findall(rf"typedef struct {structure} {{(.*?)}} {structure};", _code(), re.DOTALL)
    return re.findall(r"(\w+);", body)


def _code() -> str:
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a C compiler says of the header."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on the PATH")
    lines = []
    for structure in STRUCTURES:
        fields = ' printf(","); '.join(
            f"FIELD({structure}, {name});" for name in members(structure)
        )
        lines.append(rf'printf(",\"{structure}\": [%zu, [", sizeof({structure}));{fields}')
        lines.append('printf("]]");')
    folder = tmp_path_factory.mktemp("c_structs")
    (folder / "print.c").write_text(PROGRAM.replace("BODY", "\n  ".join(lines)))
    words = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-I", INCLUDE]
    target = folder / "print"
    subprocess.run([compiler, *words, folder / "print.c", "-o", target], check=True)
    return json.loads(subprocess.run([target], capture_output=True, check=True).stdout)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_sizes_and_offsets_are_the_header_s(structure: str, measured: dict) -> None:
    kind = STRUCTURES[structure]
    size, fields = measured[structure]
    assert ctypes.sizeof(kind) == size
    described = [(name, getattr(kind, name)) for name, *_ in kind._fields_]
    assert [[name, field.offset, field.size] for name, field in described] == fields


def test_tensors_are_the_op_s_inputs_in_order() -> None:
    names = [entry.name for entry in op_inputs(OP_VERSION_2)]
    assert members("paro_attention")[-len(names) - 1 :] == [*names, "output"]


def test_numbers_are_the_header_s(measured: dict) -> None:
    assert measured["abi"] == c_abi.ABI_VERSION
    assert measured["statuses"] == list(c_abi.Status)
    assert measured["dtypes"] == list(c_abi.DTYPES.values())
    assert measured["affine_rows"] == list(AffineRow)
    assert measured["constants"] == [len(AffineRow), MASK_WORD_BITS, MAX_TOKENS]
