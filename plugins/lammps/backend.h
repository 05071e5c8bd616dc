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
constexpr int BACKEND_INTERFACE = 3;
constexpr char BACKEND_OPEN_SYMBOL[] = "mindscaip_backend_open";
constexpr char BACKEND_FILE[] = "libmindscaip_torch.so";

// A graph in the caller's memory, valid during one call. Slots 0 .. num_atoms - 1 are the atoms of this rank; neighbours
// that belong to another rank follow them, each with its rank and its slot there.
struct GraphView {
  int64_t num_atoms;
  int64_t num_remote;
  int64_t num_edges;
  int64_t capacity;              // stride between the two rows of edge_index
  const int64_t *numbers;        // [num_atoms + num_remote] atomic numbers
  const int64_t *remote_rank;    // [num_remote]
  const int64_t *remote_slot;    // [num_remote]
  const int64_t *edge_index;     // [2][capacity]: centre slots, then neighbour slots
  const double *edge_vectors;    // [num_edges][3] in A, r_neighbour - r_centre
};

// Results in the backend's memory, valid until its next call.
struct ModelOutput {
  const double *atom_energies;     // [num_atoms] eV
  const double *edge_gradients;    // [num_edges][3] eV/A, dE/d(edge vector)
  const double *direct_forces;     // [num_atoms][3] eV/A, or nullptr when the model has none
};

// What the caller knows of a model from its contract, and the stages of its layers need.
struct Stages {
  int64_t num_layers;
  bool mutual;          // ranks in target windows count too
  bool conservative;    // forces are the gradient of the energy
};

// Moves rows of edges between the rank that owns the centre of an edge and the one that owns its neighbour. Every
// function is collective: each rank calls it the same number of times in the same order, also with nothing to send.
class Exchange {
 public:
  enum Plan { LISTED, KEPT, NUM_PLANS };    // all listed edges that leave this rank, and those that carry weight

  virtual ~Exchange() = default;

  // Announce `count` edges that leave this rank, sorted by the rank of their neighbour, and the neighbour's slot there.
  // Returns the number of edges that arrive.
  virtual int64_t open(Plan plan, int64_t count, const int64_t *ranks, const int64_t *slots) = 0;

  // The slot of the neighbour of each arriving edge.
  virtual const int64_t *arriving_slots(Plan plan) const = 0;

  // Rows of the edges that leave become rows of the edges that arrive, or the other way round (its transpose).
  virtual void to_neighbors(Plan plan, const void *leaving, void *arriving, size_t row_bytes) = 0;
  virtual void to_centers(Plan plan, const void *arriving, void *leaving, size_t row_bytes) = 0;

  // MPI may be given addresses of the GPU.
  virtual bool reads_device_memory() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // The text of the extra file "contract"; empty when the model has none.
  virtual const char *contract() const = 0;

  // Evaluate one graph that is whole (no remote atoms). False on failure, with the reason in error().
  virtual bool evaluate(const GraphView &graph, ModelOutput &output) = 0;

  // Whether the model has the stages that evaluate_part() needs.
  virtual bool has_stages() const = 0;

  // Evaluate this rank's part of a graph, together with all other ranks; the edge gradients are of the total energy.
  virtual bool evaluate_part(const GraphView &graph, const Stages &stages, Exchange &exchange, ModelOutput &output) = 0;

  // One line about the last failure.
  virtual const char *error() const = 0;

  virtual const char *torch_version() const = 0;

  // "cpu" or "cuda:1", and how many GPUs this process sees.
  virtual const char *device() const = 0;
  virtual int num_devices() const = 0;
};

struct BackendOptions {
  const char *path;      // of a model.pt
  int num_threads;       // > 0 sets torch's thread count (of the whole process); 0 leaves it alone
  const char *device;    // "cpu", "cuda" (the GPU of this rank, or the CPU where there is none) or "cuda:N"
  int node_rank;         // number of this rank among those on the same machine
};

// Why a model could not be opened: each has its own cure.
enum class OpenFailure : int { BUILD, DEVICE, FILE };

// Open a model.pt. Returns nullptr on failure, with one line in `message` and its kind in `failure`.
using BackendOpen = Backend *(*) (int interface, const BackendOptions *options, OpenFailure *failure, char *message,
                                  size_t size);

}    // namespace mindscaip

#endif
