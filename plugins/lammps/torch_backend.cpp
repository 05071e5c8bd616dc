// The torch side of the plugin: loads a model.pt and evaluates it on graphs in plain memory.

#include "backend.h"
#include "torch_stages.h"

#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/jit/python/update_graph_executor_opt.h>
#include <torch/script.h>
#include <torch/version.h>

#include <dlfcn.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <array>
#include <climits>
#include <cstdio>
#include <fstream>
#include <stdexcept>
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

// The number of GPUs. torch asks for its CUDA library once and keeps the answer, and nothing here is linked against it
// (it takes seconds and gigabytes to load), so it is loaded before the first question.
int count_gpus()
{
  static const bool loaded = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr;
  return loaded && at::hasCUDA() ? static_cast<int>(c10::impl::VirtualGuardImpl(torch::kCUDA).deviceCount()) : 0;
}

// glibc maps every large block anew and has the kernel fill it with zeros: a third of the time of a call on a CPU.
void keep_freed_memory()
{
#ifdef __GLIBC__
  constexpr int largest_before_2_35 = 32 * 1024 * 1024;
  if (!mallopt(M_MMAP_THRESHOLD, INT_MAX)) mallopt(M_MMAP_THRESHOLD, largest_before_2_35);
  constexpr int never = -1;
  mallopt(M_TRIM_THRESHOLD, never);
#endif
}

// A failure to open a model that is no fault of its file.
struct CannotOpen : std::runtime_error {
  CannotOpen(OpenFailure kind, const std::string &text) : std::runtime_error(text), kind(kind) {}
  OpenFailure kind;
};

// 2, 9, 1 of "2.9.1+cu128" and of "2.9.1a0+git5811a8d": what comes after names the variant or the build, of which the
// headers (TORCH_VERSION) say nothing.
std::array<int, 3> release_of(const std::string &version)
{
  std::array<int, 3> release{};
  std::sscanf(version.c_str(), "%d.%d.%d", &release[0], &release[1], &release[2]);
  return release;
}

// The version of the torch that this process has loaded, as stated beside its libraries: version.py of the Python package,
// build-version of the C++ distribution. Empty where there is neither.
std::string loaded_torch_version()
{
  Dl_info info;
  if (dladdr(reinterpret_cast<void *>(&at::set_num_threads), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string library = info.dli_fname;
  const auto slash = library.rfind('/');
  if (slash == std::string::npos) return "";
  const std::string root = library.substr(0, slash) + "/../";
  std::ifstream package(root + "version.py");
  for (std::string line; std::getline(package, line);) {
    const auto begin = line.find('\''), end = line.rfind('\'');
    if (line.compare(0, 11, "__version__") == 0 && end > begin) return line.substr(begin + 1, end - begin - 1);
  }
  std::string version;
  std::ifstream(root + "build-version") >> version;
  return version;
}

// torch keeps no C++ interface from one release to the next: with another one a call may crash or do something else.
void check_torch()
{
  const std::string loaded = loaded_torch_version();
  if (!loaded.empty() && release_of(loaded) != release_of(TORCH_VERSION))
    throw CannotOpen(OpenFailure::BUILD, std::string("its torch side was built for torch ") + TORCH_VERSION +
                                             ", and this process has loaded torch " + loaded +
                                             "; run 'mindscaip lammps build'");
}

class TorchBackend : public Backend {
 public:
  explicit TorchBackend(const BackendOptions &options) : device_(torch::kCPU)
  {
    choose_device(options);
    if (device_.is_cpu()) keep_freed_memory();
    device_name_ = device_.str();
    std::unordered_map<std::string, std::string> extra{{"contract", ""}};
    try {
      module_ = torch::jit::load(options.path, device_, extra);
    } catch (const c10::Error &e) {
      // A file that the CPU can read is not to blame.
      if (device_.is_cpu()) throw;
      torch::jit::load(options.path, torch::kCPU);
      throw CannotOpen(OpenFailure::DEVICE, "device " + device_name_ + " does not take the model; torch says: " +
                                                first_line(e.what_without_backtrace()));
    }
    module_.eval();
    contract_ = extra["contract"];
  }

  const char *contract() const override { return contract_.c_str(); }
  const char *error() const override { return error_.c_str(); }
  const char *torch_version() const override { return TORCH_VERSION; }
  const char *device() const override { return device_name_.c_str(); }
  int num_devices() const override { return num_devices_; }
  bool has_stages() const override { return mindscaip::has_stages(module_); }

  bool evaluate(const GraphView &graph, ModelOutput &output) override
  {
    return guarded([&] {
      const GraphTensors tensors(graph, device_);
      const auto result = module_.forward({tensors.numbers, tensors.index, tensors.vectors});
      TORCH_CHECK(result.isTuple() && result.toTupleRef().elements().size() == 3,
                  "forward of the model does not return the three tensors of the contract");
      const auto &parts = result.toTupleRef().elements();
      keep({parts[0].toTensor(), parts[1].toTensor(), parts[2].toTensor()}, graph, output);
    });
  }

  bool evaluate_part(const GraphView &graph, const Stages &stages, Exchange &exchange, ModelOutput &output) override
  {
    return guarded([&] { keep(evaluate_stages(module_, graph, stages, exchange, device_), graph, output); });
  }

 private:
  void choose_device(const BackendOptions &options)
  {
    const std::string wanted = options.device;
    if (wanted == "cpu") return;
    try {
      num_devices_ = count_gpus();
      if (wanted != "cuda")
        device_ = torch::Device(wanted);
      else if (num_devices_ > 0)
        device_ = torch::Device(torch::kCUDA, static_cast<c10::DeviceIndex>(options.node_rank % num_devices_));
    } catch (const c10::Error &e) {
      throw CannotOpen(OpenFailure::DEVICE,
                       "device " + wanted + " cannot be used; torch says: " + first_line(e.what_without_backtrace()));
    }
    if (device_.is_cuda() && device_.index() >= num_devices_)
      throw CannotOpen(OpenFailure::DEVICE, "device " + wanted + " is not there: this process sees " +
                                                std::to_string(num_devices_) + " GPUs");
  }

  template <typename Function> bool guarded(const Function &function)
  {
    try {
      // The module differentiates inside its own forward. Gradients must be on already when it is called: with them off,
      // TorchScript's optimised second call takes the module's tensors for constants and returns gradients of zero.
      const torch::AutoGradMode with_gradients(true);
      // The optimising executor keeps far more for the backward pass (three times the memory) and is no faster here.
      // The flag belongs to the calling thread.
      torch::jit::setGraphExecutorOptimize(false);
      function();
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

  void keep(const Results &results, const GraphView &graph, ModelOutput &output)
  {
    const int64_t n = graph.num_atoms, e = graph.num_edges;
    energies_ = as_doubles(results.atom_energies);
    gradients_ = as_doubles(results.edge_gradients);
    forces_ = as_doubles(results.direct_forces);
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
  torch::Device device_;
  int num_devices_ = 0;
  std::string contract_, error_, device_name_;
  torch::Tensor energies_, gradients_, forces_;    // keep the results alive until the next call
};

void copy_message(const std::string &text, char *message, size_t size)
{
  std::snprintf(message, size, "%s", text.c_str());
}

}    // namespace

}    // namespace mindscaip

extern "C" mindscaip::Backend *mindscaip_backend_open(int interface, const mindscaip::BackendOptions *options,
                                                       mindscaip::OpenFailure *failure, char *message, size_t size)
{
  using namespace mindscaip;
  if (interface != BACKEND_INTERFACE) {
    copy_message("the two libraries of the plugin come from different builds; run 'mindscaip lammps build --force'",
                 message, size);
    return nullptr;
  }
  *failure = OpenFailure::FILE;
  try {
    check_torch();
    if (options->num_threads > 0) at::set_num_threads(options->num_threads);
    return new TorchBackend(*options);
  } catch (const CannotOpen &e) {
    *failure = e.kind;
    copy_message(e.what(), message, size);
  } catch (const c10::Error &e) {
    copy_message(first_line(e.what_without_backtrace()), message, size);
  } catch (const std::exception &e) {
    copy_message(first_line(e.what()), message, size);
  } catch (...) {
    copy_message("unknown exception", message, size);
  }
  return nullptr;
}
