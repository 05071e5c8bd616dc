// The torch side of the plugin: loads a model.pt and evaluates it on graphs in plain memory.

#include "backend.h"

#include <ATen/Parallel.h>
#include <torch/script.h>
#include <torch/version.h>

#include <cstdio>
#include <string>
#include <unordered_map>
#include <utility>

namespace mindscaip {

namespace {

// c10::Error messages carry a C++ stack trace; TorchScript adds the traceback of the serialised code before the reason.
// The sentence that a user needs is the first line, or the last one when a TorchScript traceback stands in front.
std::string first_line(const std::string &text)
{
  const std::string traceback = "The following operation failed in the TorchScript interpreter";
  const auto end_of = [&text](size_t begin) { return text.substr(begin, text.find('\n', begin) - begin); };
  if (text.compare(0, traceback.size(), traceback) == 0) {
    for (const char *mark : {"RuntimeError: ", "Error: "}) {
      const auto found = text.rfind(mark);
      if (found != std::string::npos) return end_of(found);
    }
  }
  return end_of(0);
}

class TorchBackend : public Backend {
 public:
  explicit TorchBackend(const char *path)
  {
    std::unordered_map<std::string, std::string> extra{{"contract", ""}};
    module_ = torch::jit::load(path, torch::kCPU, extra);
    module_.eval();
    contract_ = extra["contract"];
  }

  const char *contract() const override { return contract_.c_str(); }
  const char *error() const override { return error_.c_str(); }
  const char *torch_version() const override { return TORCH_VERSION; }

  bool evaluate(const GraphView &graph, ModelOutput &output) override
  {
    try {
      run(graph, output);
      return true;
    } catch (const c10::Error &e) {
      error_ = first_line(e.what_without_backtrace());
    } catch (const std::exception &e) {
      error_ = first_line(e.what());
    } catch (...) {
      error_ = "unknown exception";
    }
    return false;
  }

 private:
  void run(const GraphView &graph, ModelOutput &output)
  {
    // The module differentiates inside its own forward. Gradients must be on already when it is called: with them off,
    // TorchScript's optimised second call takes the module's tensors for constants and returns gradients of zero.
    const torch::AutoGradMode with_gradients(true);
    const auto integers = torch::TensorOptions().dtype(torch::kInt64);
    const auto reals = torch::TensorOptions().dtype(torch::kFloat64);
    const int64_t n = graph.num_atoms, e = graph.num_edges;
    // No copies: the tensors are views of the caller's buffers, and the module does not write to its inputs.
    auto numbers = torch::from_blob(const_cast<int64_t *>(graph.numbers), {n}, integers);
    auto index = torch::from_blob(const_cast<int64_t *>(graph.edge_index), {2, e}, {graph.capacity, 1}, integers);
    auto vectors = torch::from_blob(const_cast<double *>(graph.edge_vectors), {e, 3}, reals);

    const auto result = module_.forward({numbers, index, vectors});
    TORCH_CHECK(result.isTuple() && result.toTupleRef().elements().size() == 3,
                "forward of the model does not return the three tensors of the contract");
    const auto &parts = result.toTupleRef().elements();
    energies_ = as_doubles(parts[0].toTensor());
    gradients_ = as_doubles(parts[1].toTensor());
    forces_ = as_doubles(parts[2].toTensor());
    TORCH_CHECK(energies_.numel() == n, "the model returned ", energies_.numel(), " energies for ", n, " atoms");
    TORCH_CHECK(gradients_.numel() == 3 * e || gradients_.numel() == 0, "the model returned ", gradients_.sizes(),
                " edge gradients for ", e, " edges");
    TORCH_CHECK(forces_.numel() == 3 * n || forces_.numel() == 0, "the model returned ", forces_.sizes(),
                " direct forces for ", n, " atoms");
    output.atom_energies = energies_.data_ptr<double>();
    output.edge_gradients = gradients_.numel() > 0 ? gradients_.data_ptr<double>() : nullptr;
    output.direct_forces = forces_.numel() > 0 ? forces_.data_ptr<double>() : nullptr;
  }

  static torch::Tensor as_doubles(const torch::Tensor &tensor)
  {
    return tensor.detach().to(torch::kCPU, torch::kFloat64).contiguous();
  }

  torch::jit::Module module_;
  std::string contract_, error_;
  torch::Tensor energies_, gradients_, forces_;    // keep the results alive until the next call
};

void copy_message(const std::string &text, char *message, size_t size)
{
  std::snprintf(message, size, "%s", text.c_str());
}

}    // namespace

}    // namespace mindscaip

extern "C" mindscaip::Backend *mindscaip_backend_open(int interface, const char *path, int num_threads, char *message,
                                                       size_t size)
{
  using namespace mindscaip;
  if (interface != BACKEND_INTERFACE) {
    copy_message("the two libraries of the plugin come from different builds; run 'mindscaip lammps build --force'",
                 message, size);
    return nullptr;
  }
  try {
    if (num_threads > 0) at::set_num_threads(num_threads);
    return new TorchBackend(path);
  } catch (const c10::Error &e) {
    copy_message(first_line(e.what_without_backtrace()), message, size);
  } catch (const std::exception &e) {
    copy_message(first_line(e.what()), message, size);
  } catch (...) {
    copy_message("unknown exception", message, size);
  }
  return nullptr;
}
