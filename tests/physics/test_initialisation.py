"""At initialisation activations and gradients are of order one at every size; what lower precision costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mindscaip.config import load_config
from mindscaip.data.structure import Structure
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.model.backbone import MinDScAIP
from tests.models import ELEMENTS, energy_forces_virial, random_structure, small_model

ACTIVATION = (0.5, 2.0)
"""Root mean square of the tokens after the embedding and after every block."""
GRADIENT = (0.05, 5.0)
"""Length of the gradient of the energy with respect to an atom's token."""


def preset(name: str) -> MinDScAIP:
    torch.manual_seed(0)
    model = load_config([f"preset={name}"]).model
    return MinDScAIP(model, ELEMENTS, {"C": 0.0, "H": 0.0, "O": 0.0})


def rms(x: torch.Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


@pytest.mark.parametrize("name", ["small", "medium", "large"])
def test_activations_and_gradients_are_of_order_one(name):
    model, structure = preset(name), random_structure(10, seed=2)
    edges = neighbor_list(structure, model.list_cutoff)
    vectors = torch.from_numpy(edges.vectors).requires_grad_(True)
    tokens: dict[str, torch.Tensor] = {}

    def keep(key: str):
        def hook(_module, _inputs, output):
            output.retain_grad()
            tokens[key] = output

        return hook

    model.embedding.register_forward_hook(keep("embedding"))
    for layer, block in enumerate(model.blocks):
        block.register_forward_hook(keep(f"block {layer}"))
    energies, _ = model(torch.from_numpy(structure.numbers), torch.from_numpy(edges.index), vectors)
    energies.sum().backward()

    assert len(tokens) == 9
    for key, activation in tokens.items():
        assert ACTIVATION[0] < rms(activation) < ACTIVATION[1], (key, rms(activation))
    lengths = [float(t.grad[: len(structure)].double().norm(dim=1).mean()) for t in tokens.values()]
    assert GRADIENT[0] < min(lengths), lengths
    assert max(lengths) < GRADIENT[1], lengths
    assert 0.5 < lengths[0] / lengths[-1] < 2.0, lengths  # neither vanishes nor explodes on its way through the blocks
    assert rms(energies) < 2.0
    edge_gradient = float(vectors.grad.norm(dim=1).max())
    assert GRADIENT[0] < edge_gradient < GRADIENT[1], edge_gradient
    for parameter_name, parameter in model.named_parameters():
        if parameter.grad is not None and "force" not in parameter_name:
            assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", ["small", "medium", "large"])
def test_float32_is_near_float64_of_the_same_weights(name):
    """Rounding of 6e-8 grows by some hundred operations: 1e-5 of energies and forces is left."""
    model, structure = preset(name), random_structure(8, seed=3)
    energies, forces, virial = energy_forces_virial(model, structure)
    double_energies, double_forces, double_virial = energy_forces_virial(model.set_precision(torch.float64), structure)
    assert np.abs(energies - double_energies).max() < 1e-5
    assert np.abs(forces - double_forces).max() < 1e-5 * np.abs(double_forces).max()
    assert np.abs(virial - double_virial).max() < 1e-5 * np.abs(double_virial).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_totals_keep_their_digits(dtype):
    """100 molecules far apart, -1e5 eV together: the total is the sum of the parts to 1e-9 eV."""
    model = small_model(dtype=dtype)
    molecule = random_structure(3, size=2.0, seed=5)
    parts = [Structure(molecule.numbers, molecule.positions + np.array([0.0, 0.0, 50.0 * n])) for n in range(100)]
    together = Structure(np.concatenate([p.numbers for p in parts]), np.concatenate([p.positions for p in parts]))
    total = energy_forces_virial(model, together)[0]
    assert total.dtype == np.float64
    assert total.sum() < -1e5
    # The same atoms in the same batch have the same energies up to rounding of their distances.
    repeated = total.reshape(100, -1)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-6
    assert np.abs(repeated - repeated[0]).max() < tolerance
    # Rounding of the sum itself, whatever the precision of the network.
    assert abs(total.sum() - 100 * repeated.mean(0).sum()) < 1e-9
