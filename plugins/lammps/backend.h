// The border between the LAMMPS side and the torch side of the plugin.
//
// The two sides are two shared libraries: LAMMPS loads "mindscaipplugin.so" at every start, and that loads the torch
// side only when a model is asked for, so that runs without this pair style pay nothing, and a torch that does not fit
// is reported by the pair_style command instead of hiding the style. Only plain data crosses the border: no exception,
// no standard-library object, so the two sides may even differ in their C++ ABI.

#ifndef MINDSCAIP_BACKEND_H
#define MINDSCAIP_BACKEND_H

#include <cstddef>
#include <cstdint>

namespace mindscaip {

// Raised whenever this header changes: both sides must come from one build.
constexpr int BACKEND_INTERFACE = 1;
constexpr char BACKEND_OPEN_SYMBOL[] = "mindscaip_backend_open";
constexpr char BACKEND_FILE[] = "libmindscaip_torch.so";

// A graph in the caller's memory, valid during one call.
struct GraphView {
  int64_t num_atoms;
  int64_t num_edges;
  int64_t capacity;              // stride between the two rows of edge_index
  const int64_t *numbers;        // [num_atoms] atomic numbers
  const int64_t *edge_index;     // [2][capacity]: centre slots, then neighbour slots
  const double *edge_vectors;    // [num_edges][3] in A, r_neighbour - r_centre
};

// Results in the backend's memory, valid until its next call.
struct ModelOutput {
  const double *atom_energies;     // [num_atoms] eV
  const double *edge_gradients;    // [num_edges][3] eV/A, dE/d(edge vector)
  const double *direct_forces;     // [num_atoms][3] eV/A, or nullptr when the model has none
};

class Backend {
 public:
  virtual ~Backend() = default;

  // The text of the extra file "contract"; empty when the model has none.
  virtual const char *contract() const = 0;

  // Evaluate one graph. False on failure, with the reason in error().
  virtual bool evaluate(const GraphView &graph, ModelOutput &output) = 0;

  // One line about the last failure.
  virtual const char *error() const = 0;

  virtual const char *torch_version() const = 0;
};

// Open a model.pt. Returns nullptr on failure, with one line in `message`. `num_threads` > 0 sets torch's thread count
// (of the whole process); 0 leaves it alone.
using BackendOpen = Backend *(*) (int interface, const char *path, int num_threads, char *message, size_t size);

}    // namespace mindscaip

#endif
