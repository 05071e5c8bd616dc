"""Results of the right shapes, made up, for pages about them."""

from __future__ import annotations

import numpy as np

from mindscaip.bsct.dataset import Scan, displace, make_scan
from mindscaip.engines.record import NVERecord, standard_masses
from mindscaip.training.logs import CURVE_COLUMNS

NUMBERS = np.array([6, 8, 1, 1, 1, 1])
POSITIONS = np.array(
    [[0.0, 0.0, 0.0], [1.4, 0.0, 0.0], [-0.4, 1.0, 0.0], [-0.4, -0.5, 0.9], [-0.4, -0.5, -0.9], [1.7, 0.9, 0.0]]
)


def curves(epochs: int = 12) -> dict[str, list[float]]:
    epoch = np.arange(1, epochs + 1)
    columns = {name: (100.0 / epoch).tolist() for name in CURVE_COLUMNS}
    return {**columns, "epoch": epoch.tolist(), "step": (40 * epoch).tolist(), "minutes": (0.1 * epoch).tolist()}


def nve_record(engine: str, shift: float = 0.0, steps: int = 40) -> NVERecord:
    step = np.arange(steps + 1)
    rng = np.random.default_rng(0)
    motion = 1e-3 * np.sin(0.2 * step)[:, None, None] * rng.normal(size=(1, *POSITIONS.shape))
    return NVERecord.from_frames(
        engine=engine,
        step=step,
        timestep_fs=0.5,
        potential_eV=-100.0 + 1e-3 * np.sin(0.3 * step) + shift * step,
        positions=POSITIONS + motion + shift * step[:, None, None],
        velocities=np.full((steps + 1, *POSITIONS.shape), 1e-3),
        masses=standard_masses(NUMBERS),
    )


def morse_scan(frames: int = 60, *, well: float = 1.4) -> tuple[Scan, np.ndarray, np.ndarray]:
    """A scan with a Morse reference along the C-O bond, and a model that is the same well a little displaced."""
    lengths = np.linspace(0.9, 2.8, frames)
    labels = np.array([0, 1, 0, 0, 0, 1])
    positions = displace(POSITIONS, (0, 1), labels, lengths)

    def morse(minimum: float) -> tuple[np.ndarray, np.ndarray]:
        decay = np.exp(-2.0 * (lengths - minimum))
        forces = np.zeros((frames, len(NUMBERS), 3))
        pull = 2 * 4.0 * 2.0 * (1 - decay) * decay
        forces[:, 0, 0], forces[:, 1, 0] = pull, -pull
        return 4.0 * (1 - decay) ** 2, forces

    energy, forces = morse(well)
    scan = make_scan(
        bond="C-O", id="made-up", numbers=NUMBERS, positions=positions, bond_length=lengths, energy=energy,
        forces=forces, bond_index=(0, 1), fragment_labels=labels, source="made up", smiles="CO",
    )  # fmt: skip
    return scan, *morse(well + 0.02)
