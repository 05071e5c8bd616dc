from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mindscaip.data.structure import Structure

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """Path of a file of the reference data; the test is skipped where the data are absent."""
    root = Path(os.environ.get("MINDSCAIP_DATA", REPOSITORY / "../shared/data"))

    def find(name: str) -> Path:
        if not root.is_dir():
            pytest.skip(f"reference data not found in {root}; set MINDSCAIP_DATA")
        assert (root / name).exists(), f"{name} is missing in {root}"
        return root / name

    return find


@pytest.fixture
def structures() -> list[Structure]:
    """Seven random labelled structures of 1 to 7 atoms; two are periodic with a stress, three groups."""
    rng = np.random.default_rng(7)
    made = []
    for n in range(1, 8):
        periodic = n in (3, 6)
        made.append(
            Structure(
                numbers=rng.integers(1, 20, n),
                positions=rng.normal(size=(n, 3)) * 3,
                cell=np.eye(3) * 9 + rng.normal(size=(3, 3)) * 0.3 if periodic else np.zeros((3, 3)),
                pbc=[periodic] * 3,
                energy=rng.normal() * 100,
                forces=rng.normal(size=(n, 3)),
                stress=np.diag(rng.normal(size=3)) if periodic else None,
                group="abc"[n % 3],
            )
        )
    return made
