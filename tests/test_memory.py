"""Large blocks are used again instead of being mapped anew."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from mindscaip.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults_of_a_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8_000_000).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_a_block()
print(min(faults_of_a_block() for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
def test_a_freed_block_is_used_again():
    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    # 64 MB are 15,625 small pages; huge pages make fewer faults of the default, and none of a block that was kept.
    assert faults("keep") < 16
    assert faults("default") >= 16
