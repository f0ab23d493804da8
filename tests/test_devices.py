"""What a subprocess sees, since memory settings hold for a whole process and cannot be taken back."""

import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from mtret.devices import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
size = 64 * 2**20

def use():
    block = library.malloc(size)
    ctypes.memset(block, 1, size)
    library.free(block)

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults of glibc's allocator")
def test_memory_that_is_freed_is_kept_for_the_next_step():
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < 100
    assert faults("left") > 10 * 64 * 2**20 // 2**21  # at least once a large page, each of ten times
