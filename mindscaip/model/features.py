"""What an edge token is made of: smeared distance, spherical harmonics of the direction, both elements."""

import math

import numpy as np
import torch
from torch import Tensor, nn


class GaussianSmearing(nn.Module):
    """``v_m(d) = exp(-(d - mu_m)^2 / (2 sigma^2))``, ``sigma = gamma * spacing`` (paper, Section 5.1, Appendix D).

    A larger ``gamma`` bounds the derivatives of every linear combination of the ``v_m`` relative to its size.
    """

    centers: Tensor

    def __init__(self, num_radial: int, cutoff: float, gamma: float) -> None:
        super().__init__()
        spacing = cutoff / (num_radial - 1)
        self.inverse_width = 1.0 / (gamma * spacing)
        self.register_buffer("centers", torch.linspace(0.0, cutoff, num_radial, dtype=torch.float64))

    def forward(self, distance: Tensor) -> Tensor:
        """Distances ``[E]`` in A to ``[E, num_radial]``."""
        scaled = (distance.unsqueeze(1) - self.centers) * self.inverse_width
        return torch.exp(-0.5 * scaled * scaled)


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics of unit vectors, ``l = 0 .. l_max``, normalised so that ``sum_m Y_lm^2 = 2l + 1``.

    Each is a homogeneous polynomial of degree ``l`` in (x, y, z), so all of them are one product of monomials with a
    constant matrix: few operations, and derivatives of any order without a singular direction.
    """

    exponents: Tensor
    coefficients: Tensor

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        exponents, coefficients = harmonic_polynomials(l_max)
        self.register_buffer("exponents", torch.from_numpy(exponents), persistent=False)
        self.register_buffer("coefficients", torch.from_numpy(coefficients), persistent=False)

    def forward(self, direction: Tensor) -> Tensor:
        """Unit vectors ``[E, 3]`` to ``[E, (l_max + 1)^2]``, ordered by ``l``, then ``m = -l .. l``."""
        powers = [torch.ones_like(direction)]
        for _ in range(self.l_max):
            powers.append(powers[-1] * direction)
        table = torch.stack(powers, dim=2)
        x = table[:, 0].index_select(1, self.exponents[:, 0])
        y = table[:, 1].index_select(1, self.exponents[:, 1])
        z = table[:, 2].index_select(1, self.exponents[:, 2])
        return (x * y * z) @ self.coefficients


def harmonic_polynomials(l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Exponents ``[P, 3]`` of the monomials of degree up to ``l_max`` and coefficients ``[P, (l_max + 1)^2]``.

    ``Y_lm = N_lm Q_lm(z) C_m(x, y)`` for ``m >= 0`` and with ``S_m`` for ``m < 0``, where
    ``C_m + i S_m = (x + iy)^m`` and ``Q_lm = P_lm(z) / (1 - z^2)^(m/2)`` obeys
    ``(l-m) Q_lm = (2l-1) z Q_(l-1)m - (l+m-1) r^2 Q_(l-2)m``; the ``r^2`` (1 on the unit sphere) keeps the
    polynomials homogeneous.
    """
    Polynomial = dict[tuple[int, int, int], float]

    def multiply(a: Polynomial, b: Polynomial) -> Polynomial:
        out: Polynomial = {}
        for ea, ca in a.items():
            for eb, cb in b.items():
                e = (ea[0] + eb[0], ea[1] + eb[1], ea[2] + eb[2])
                out[e] = out.get(e, 0.0) + ca * cb
        return out

    def combine(a: Polynomial, factor_a: float, b: Polynomial, factor_b: float) -> Polynomial:
        return {e: factor_a * a.get(e, 0.0) + factor_b * b.get(e, 0.0) for e in a.keys() | b.keys()}

    one: Polynomial = {(0, 0, 0): 1.0}
    x: Polynomial = {(1, 0, 0): 1.0}
    y: Polynomial = {(0, 1, 0): 1.0}
    z: Polynomial = {(0, 0, 1): 1.0}
    r2: Polynomial = {(2, 0, 0): 1.0, (0, 2, 0): 1.0, (0, 0, 2): 1.0}

    cosines: list[Polynomial] = [one]
    sines: list[Polynomial] = [{}]
    for _ in range(l_max):
        c, s = cosines[-1], sines[-1]
        cosines.append(combine(multiply(c, x), 1.0, multiply(s, y), -1.0))
        sines.append(combine(multiply(s, x), 1.0, multiply(c, y), 1.0))

    legendre: dict[tuple[int, int], Polynomial] = {}
    for m in range(l_max + 1):
        legendre[m, m] = {(0, 0, 0): float(math.prod(range(1, 2 * m, 2)))}
        for l in range(m + 1, l_max + 1):  # noqa: E741 - the degree is called l everywhere
            below = multiply(r2, legendre[l - 2, m]) if l - 2 >= m else {}
            upper = multiply(z, legendre[l - 1, m])
            legendre[l, m] = combine(upper, (2 * l - 1) / (l - m), below, -(l + m - 1) / (l - m))

    harmonics: list[Polynomial] = []
    for l in range(l_max + 1):  # noqa: E741
        for m in range(-l, l + 1):
            a = abs(m)
            norm = math.sqrt((2 * l + 1) * math.factorial(l - a) / math.factorial(l + a) * (1 if m == 0 else 2))
            angular = cosines[a] if m >= 0 else sines[a]
            harmonics.append(combine(multiply(legendre[l, a], angular), norm, {}, 0.0))

    exponents = [
        (a, b, degree - a - b) for degree in range(l_max + 1) for a in range(degree + 1) for b in range(degree + 1 - a)
    ]
    coefficients = np.array([[polynomial.get(e, 0.0) for polynomial in harmonics] for e in exponents])
    return np.array(exponents, dtype=np.int64), coefficients


class TokenEmbedding(nn.Module):
    """Initial tokens: edges from distance, direction and both elements; self tokens from the element alone.

    A sum of linear maps followed by a residual two-layer network, in which distance, direction and elements mix.
    """

    def __init__(
        self, num_elements: int, embed_dim: int, num_radial: int, l_max: int, cutoff: float, gamma: float, hidden: int
    ) -> None:
        super().__init__()
        self.smearing = GaussianSmearing(num_radial, cutoff, gamma)
        self.harmonics = SphericalHarmonics(l_max)
        self.radial = nn.Linear(num_radial, embed_dim, bias=False)
        self.angular = nn.Linear((l_max + 1) ** 2, embed_dim, bias=False)
        self.center = nn.Embedding(num_elements, embed_dim)
        self.neighbor = nn.Embedding(num_elements, embed_dim)
        self.atom = nn.Embedding(num_elements, embed_dim)
        self.mix = nn.Sequential(nn.Linear(embed_dim, hidden), nn.SiLU(), nn.Linear(hidden, embed_dim))
        # About 2.5 gamma Gaussians are of order one at any distance: keep the sum of the four terms of order one.
        nn.init.normal_(self.radial.weight, std=1.0 / math.sqrt(2.5 * max(1.0, gamma)))
        nn.init.normal_(self.angular.weight, std=1.0 / (l_max + 1))

    def forward(self, species: Tensor, center: Tensor, neighbor: Tensor, distance: Tensor, direction: Tensor) -> Tensor:
        """Token table ``[N + E, D]`` from species ``[N]`` and edges ``[E]``."""
        edges = (
            self.radial(self.smearing(distance))
            + self.angular(self.harmonics(direction))
            + self.center(species[center])
            + self.neighbor(species[neighbor])
        ) * 0.5
        tokens = torch.cat([self.atom(species), edges])
        return tokens + self.mix(tokens)
