// One graph spread over several ranks: the model's stages with an exchange of edge tokens between them.

#ifndef MINDSCAIP_TORCH_STAGES_H
#define MINDSCAIP_TORCH_STAGES_H

#include "backend.h"

#include <torch/script.h>

namespace mindscaip {

// A GraphView as tensors: views of the caller's buffers on the CPU, copies on a GPU.
struct GraphTensors {
  GraphTensors(const GraphView &graph, torch::Device device);

  torch::Tensor numbers;    // int64 [atoms + remote]
  torch::Tensor index;      // int64 [2, E]
  torch::Tensor vectors;    // float64 [E, 3]
};

struct Results {
  torch::Tensor atom_energies;     // float64 [atoms]
  torch::Tensor edge_gradients;    // [E, 3]
  torch::Tensor direct_forces;     // [atoms or 0, 3]
};

// Whether the module has the methods that evaluate_stages() calls.
bool has_stages(const torch::jit::Module &module);

// What forward() of the module gives for the whole graph, on this rank's part of it. Collective.
Results evaluate_stages(torch::jit::Module &module, const GraphView &graph, const Stages &stages, Exchange &exchange,
                        torch::Device device);

}    // namespace mindscaip

#endif
