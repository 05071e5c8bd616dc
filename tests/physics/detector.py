"""Find jumps in the first derivatives of the energy along a path, and bound those that are not there.

Along a path ``t`` (A) a potential gives ``E(t)`` and, from forces and virial, ``g(t) = dE/dt``. Between two
neighbouring samples a polynomial through the eight samples on the left and one through the eight on the right are both
continued to the middle. The difference of their ``n``-th derivatives there,

    J_n(h) = (n-th jump of E) + O(h^p),   p = 8 for n = 0 (from E) and 9 - n for n = 1 .. 4 (from g),

falls with the order ``p`` when the step ``h`` is halved if ``E`` is smooth, and tends to the jump if there is one.
Steps are halved where, and only where, ``J_n`` is above its tolerance: at the end every gap of the path has either been
shown to hold no larger jump, or has kept one down to the step at which rounding is as large as the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

POINTS = 8
ORDERS = 5
"""Derivatives 0 to 4."""
TOLERANCES = (1e-9, 1e-8, 1e-6, 1e-5, 1e-3)
"""Largest jump of each derivative relative to that derivative's size along the path (its 90th percentile).

Each is what rounding leaves: samples with noise ``u`` give ``J_n`` to about ``a_n u / h^(n-1)`` with ``a_4 = 100``, and
for ``u = 1e-14`` of the slope and the steps of 1e-3 to 1e-2 A that resolve a potential, these bounds stand one to two
orders of magnitude above it.
"""

Sample = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Path parameters ``[M]`` to energies ``[M]`` (eV) and slopes ``dE/dt`` ``[M]`` (eV/A)."""


def one_sided_weights(derivative: int) -> np.ndarray:
    """Weights of samples at ``h/2, 3h/2, ...`` for a derivative at 0, times ``h^derivative``."""
    nodes = np.arange(POINTS) + 0.5
    return math.factorial(derivative) * np.linalg.inv(np.vander(nodes, increasing=True))[derivative]


def jump_weights(n: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Weights over the 16 samples around a gap for jump and mean of derivative ``n`` of E, and their power of h.

    Derivative 0 is taken of the energies, derivatives 1 to 4 are derivatives 0 to 3 of the slopes.
    """
    power = max(0, n - 1)
    right = one_sided_weights(power)
    left = (-1) ** power * right[::-1]
    return np.concatenate([-left, right]), 0.5 * np.concatenate([left, right]), power


@dataclass(frozen=True)
class Derivative:
    """What was found of one derivative of the energy along a path.

    Attributes:
        size: 90th percentile of its magnitude along the path (eV/A^n; the range of the energy for n = 0).
        jump: largest ``J_n`` left, same unit. No jump along the path is larger. Where there is one, it is half to a
            tenth of this, as continuing a polynomial across it enlarges it.
        tolerance: what was allowed.
        breaks: number of places at which a jump stayed.
        place: path parameter of the largest ``J_n``.
        halving: largest ``J_n`` over the path at each halving of the step.
    """

    size: float
    jump: float
    tolerance: float
    breaks: int
    place: float
    halving: tuple[float, ...]

    @property
    def order(self) -> float:
        """Power of the step with which the largest ``J_n`` fell in the last (up to four) halvings; 0 at a jump."""
        last = self.halving[-5:]
        if len(last) < 2 or last[-1] <= 0.0:
            return math.inf
        return math.log2(last[0] / last[-1]) / (len(last) - 1)

    @property
    def relative(self) -> float:
        return self.jump / self.size if self.size > 0 else 0.0


@dataclass(frozen=True)
class Continuity:
    """Derivatives 0, 1, ... of the energy along one path, the finest step (A) and the number of samples."""

    derivatives: tuple[Derivative, ...]
    finest_step: float
    samples: int

    @property
    def smooth(self) -> bool:
        return all(d.breaks == 0 for d in self.derivatives)

    @property
    def lowest_jump(self) -> int | None:
        """The lowest derivative that jumps (those below it may exceed their bounds too, but fall with the step)."""
        return next((n for n, d in enumerate(self.derivatives) if d.breaks and d.order < 0.5), None)

    def __str__(self) -> str:
        parts = [
            f"D{n} {d.relative:.1e}{f' ({d.breaks} breaks)' if d.breaks else ''}"
            for n, d in enumerate(self.derivatives)
        ]
        return ", ".join(parts) + f"; {self.samples} samples, finest step {self.finest_step:.1e} A"


def sample_noise(sample: Sample, start: float, stop: float) -> tuple[float, float]:
    """Rounding (standard deviation) of energies and slopes: sixth differences at steps far too small for physics."""
    places = np.linspace(start, stop, 9)[1:-1]
    rounding = np.zeros((len(places), 2))
    t = (places[:, None] + 1e-7 * np.arange(16)).ravel()
    for column, values in enumerate(sample(t)):
        differences = np.diff(values.reshape(len(places), 16), 6, axis=1)
        rounding[:, column] = np.sqrt((differences**2).mean(1) / math.comb(12, 6))
    energy, slope = np.median(rounding, axis=0)  # one place may lie on a jump
    # A total that hardly varies is rounded in steps of its last bit, which small differences do not see.
    return max(float(energy), 0.5 * float(np.finfo(np.float64).eps * np.abs(sample(places)[0]).max())), float(slope)


def _breaks(places: np.ndarray, jumps: np.ndarray, width: float) -> list[tuple[float, float]]:
    """Largest jump and its place of each group of gaps closer than ``width``: one jump spoils every stencil over it."""
    groups = np.cumsum(np.diff(places, prepend=places[:1]) > width)
    found = []
    for group in np.unique(groups):
        mine, sizes = places[groups == group], jumps[groups == group]
        found.append((float(sizes.max()), float(mine[sizes.argmax()])))
    return found


def examine(
    sample: Sample,
    start: float,
    stop: float,
    *,
    step: float = 0.02,
    tolerances: tuple[float, ...] = TOLERANCES,
    levels: int = 9,
) -> Continuity:
    """Look for jumps between ``start`` and ``stop``.

    Args:
        step: first step (A); halved at most ``levels`` times.
        tolerances: allowed jump of each derivative relative to its size; as many as derivatives to examine.
    """
    energies: dict[int, float] = {}
    slopes: dict[int, float] = {}
    unit = 2**levels
    finest = step / unit

    def fetch(indices: np.ndarray) -> None:
        missing = [i for i in np.unique(indices).tolist() if i not in energies]
        if missing:
            e, g = sample(start + finest * np.array(missing))
            energies.update(zip(missing, e.tolist(), strict=True))
            slopes.update(zip(missing, g.tolist(), strict=True))

    def look_up(table: dict[int, float], indices: np.ndarray) -> np.ndarray:
        return np.array([table[i] for i in indices.ravel().tolist()]).reshape(indices.shape)

    noise = sample_noise(sample, start, stop)
    count = math.ceil((stop - start) / step)
    pending = [np.arange(count) * unit for _ in tolerances]
    weights = [jump_weights(n) for n in range(len(tolerances))]
    size, allowed, accepted = np.zeros((3, len(tolerances)))
    accepted_place = np.full(len(tolerances), start)
    halving: list[list[float]] = [[] for _ in tolerances]
    broken: list[list[tuple[float, float]]] = [[] for _ in tolerances]
    used = step
    for level in range(levels + 1):
        stride = unit >> level
        h = finest * stride
        around = stride * np.arange(1 - POINTS, POINTS + 1)
        fetch(np.concatenate(pending)[:, None] + around)
        for n, (jump, mean, power) in enumerate(weights):
            gaps = pending[n]
            if len(gaps) == 0:
                continue
            used = min(used, h)
            values = look_up(energies if n == 0 else slopes, gaps[:, None] + around)
            if n == 0:
                values = values - values.mean()
            found = np.abs(values @ jump) / h**power
            if level == 0:
                size[n] = np.ptp(values) if n == 0 else np.quantile(np.abs(values @ mean), 0.9) / h**power
            rounding = 5.0 * noise[min(n, 1)] * float(np.linalg.norm(jump))
            allowed[n] = max(tolerances[n] * size[n], rounding if power == 0 else 0.0)
            halving[n].append(float(found.max()))
            places = start + finest * (gaps + 0.5 * stride)
            good = found <= allowed[n]
            if good.any() and found[good].max() > accepted[n]:
                accepted[n] = found[good].max()
                accepted_place[n] = places[good][found[good].argmax()]
            bad = gaps[~good]
            last = level == levels or rounding / (h / 2) ** power > max(allowed[n], 1e-300)
            if last:
                broken[n] = _breaks(places[~good], found[~good], 2 * POINTS * h)
                pending[n] = bad[:0]
            else:
                pending[n] = np.unique(np.concatenate([bad, bad + stride // 2]))
    derivatives = []
    for n in range(len(tolerances)):
        worst = max(broken[n], default=(accepted[n], accepted_place[n]))
        derivatives.append(
            Derivative(
                float(size[n]), float(worst[0]), float(allowed[n]), len(broken[n]), float(worst[1]), tuple(halving[n])
            )
        )
    return Continuity(tuple(derivatives), used, len(energies))
