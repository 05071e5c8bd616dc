"""Mixed precision: bfloat16 in the linear maps of the blocks while the weights are optimised, and nowhere else.

The linear maps are 99 % of the arithmetic at the paper's sizes. Everything else stays as it is: neighbour graph, ranks
and envelopes (float64: an envelope rounded to 3 digits is a step in the energy), Gaussians and harmonics, attention
scores with their log-envelope bias, softmax, norms and the residual stream (float32), and the sum of energies
(float64). Weights, their moving average and the optimiser are float32, and validation and export never use bfloat16.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn

from mindscaip.model.backbone import MinDScAIP


def use_precision(model: MinDScAIP, precision: str) -> None:
    """Let the linear maps of the blocks work in bfloat16 in training mode, if ``precision`` is ``bf16-mixed``."""
    if precision != "bf16-mixed":
        return
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            module.forward = MethodType(_linear, module)  # type: ignore[method-assign]


def _linear(self: nn.Linear, x: Tensor) -> Tensor:
    if not self.training:
        return nn.functional.linear(x, self.weight, self.bias)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return nn.functional.linear(x, self.weight, self.bias).to(x.dtype)
