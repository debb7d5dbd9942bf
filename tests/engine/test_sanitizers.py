"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, on every case of the table."""

import os
import subprocess
import sys

import pytest
from helpers.rules import needs_kernels

from minigam.engine import compiler

pytestmark = needs_kernels

FLAGS = """
from minigam.engine import compiler
compiler.FLAGS = (*compiler.FLAGS, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
"""

EVERY_CASE = """
import numpy as np
from helpers.rules import small_blocks, value_and_gradients
from minigam.engine.compiled import kernels
from minigam.gradcheck.cases import CASES

class Patch:
    setattr = staticmethod(setattr)

for dtype in ("float32", "float64"):
    assert kernels.usable(np.dtype(dtype))
    kernels.set_threads(2, dtype)
for small in (False, True):
    if small:
        small_blocks(Patch)
    for case in CASES:
        for dtype in ("float32", "float64") if "numpy" in case.op.fast else ():
            value_and_gradients(case, case.tensors(dtype=dtype))
print("done")
"""

# Reads behind an array, and adds beyond the largest integer.
FAULTS = {
    "heap-buffer-overflow": "int fault(const int* x) { return x[100]; }",
    "signed integer overflow": "int fault(const int* x) { return x[0] + 2147483647; }",
}
FAULT = """
import numpy as np
library, _ = compiler.library({source!r})
print("done" if library.fault(np.ones(100, "int32").ctypes) else "")
"""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """A function that runs code in a process with the sanitizers."""
    asked = subprocess.run([*compiler.find(), "-print-file-name=libasan.so"], capture_output=True, text=True)
    runtime = asked.stdout.strip()
    if not os.path.isabs(runtime):  # noqa: PTH117
        pytest.skip("the compiler has no AddressSanitizer that can be loaded before Python")
    variables = {
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("sanitized")), "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip

    def run(code: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", FLAGS + code],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=400,
        )

    empty = run("compiler.library('int nothing;')")
    if empty.returncode:
        pytest.skip(f"the sanitizers do not work here: {empty.stderr.splitlines()[-1]}")
    return run


def test_no_kernel_reads_or_writes_outside_its_arrays(sanitized):
    done = sanitized(EVERY_CASE)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-4000:]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_sanitizers_notice_a_fault(fault, sanitized):
    done = sanitized(FAULT.format(source=FAULTS[fault]))
    assert done.returncode != 0
    assert fault in done.stderr
