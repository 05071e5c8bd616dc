"""Spherical harmonics and smearing against closed forms and quadrature."""

import numpy as np
import torch

from mindscaip.model.features import GaussianSmearing, SphericalHarmonics


def sphere_quadrature(degree: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Product rule exact for polynomials up to ``degree``: Gauss-Legendre in z times uniform azimuths."""
    z, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    azimuth = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    radius = np.sqrt(1 - z**2)
    points = np.stack(
        [np.outer(radius, np.cos(azimuth)), np.outer(radius, np.sin(azimuth)), np.outer(z, np.ones(degree + 1))], -1
    )
    return torch.from_numpy(points.reshape(-1, 3)), torch.from_numpy(np.repeat(weights / 2 / (degree + 1), degree + 1))


def test_harmonics_are_orthogonal_with_component_normalisation():
    points, weights = sphere_quadrature(10)
    y = SphericalHarmonics(5)(points)
    gram = y.T @ (weights[:, None] * y)
    assert torch.allclose(gram, torch.eye(36, dtype=torch.float64), rtol=0, atol=1e-13)


def test_harmonics_of_low_degree_have_their_known_form():
    x, y, z = 0.6, 0.48, 0.64
    values = SphericalHarmonics(2)(torch.tensor([[x, y, z]], dtype=torch.float64))[0].tolist()
    expected = [
        1.0,
        *(3**0.5 * v for v in (y, z, x)),
        *(15**0.5 * v for v in (x * y, y * z)),
        5**0.5 * (3 * z * z - 1) / 2,
        *(15**0.5 * v for v in (x * z, (x * x - y * y) / 2)),
    ]
    assert np.allclose(values, expected, rtol=0, atol=1e-14)


def test_harmonics_have_bounded_derivatives_at_the_poles():
    v = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    y = SphericalHarmonics(5)(v).sum()
    for _ in range(3):
        (g,) = torch.autograd.grad(y, v, create_graph=True)
        assert torch.isfinite(g).all()
        y = (g**2).sum()


def test_gaussians_have_width_gamma_times_spacing():
    smearing = GaussianSmearing(7, 6.0, gamma=2.0)
    values = smearing(torch.tensor([3.0], dtype=torch.float64))[0]
    expected = np.exp(-0.5 * ((3.0 - np.arange(7.0)) / 2.0) ** 2)
    assert np.allclose(values.numpy(), expected, rtol=1e-14)
