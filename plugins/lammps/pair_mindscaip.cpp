#include "pair_mindscaip.h"

#include "units.h"

#include "atom.h"
#include "comm.h"
#include "compute.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "modify.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

// Not every C library has it, and the run-time library of a sanitizer refuses it; without it torch may compute with the
// linear algebra of LAMMPS.
#if defined(RTLD_DEEPBIND) && !defined(MINDSCAIP_SANITIZE)
#define MINDSCAIP_DEEPBIND RTLD_DEEPBIND
#else
#define MINDSCAIP_DEEPBIND 0
#endif

using namespace LAMMPS_NS;

namespace {

// The nine components of the virial that "compute pair" reads.
constexpr int NUM_EXTRA = 9;
// What a ghost is told about its owner: rank and slot.
constexpr int HOME_SIZE = 2;

// "comm_modify group" has no public reader, and it must not go unnoticed.
struct CommGroup : public Comm {
  static int of(const Comm *comm) { return comm->*(&CommGroup::bordergroup); }
};

// The torch side lies beside the library that this function is part of.
std::string backend_path()
{
  Dl_info info;
  if (dladdr(reinterpret_cast<void *>(&backend_path), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string own = info.dli_fname;
  const auto slash = own.rfind('/');
  return (slash == std::string::npos ? std::string(".") : own.substr(0, slash)) + "/" + mindscaip::BACKEND_FILE;
}

// As an input script must write it.
std::string quoted(const std::string &word)
{
  if (word.find_first_of(" \t$#&") == std::string::npos) return word;
  return word.find('\'') == std::string::npos ? "'" + word + "'" : '"' + word + '"';
}

}    // namespace

PairMindscaip::PairMindscaip(LAMMPS *lmp) : Pair(lmp)
{
  manybody_flag = 1;
  one_coeff = 1;
  single_enable = 0;
  // Here and not later: pair_style hybrid and the buffers of the communication read it before pair_coeff.
  comm_forward = HOME_SIZE;
  unit_convert_flag = 0;
  // The virial comes from the edges: positions and forces of the ghosts do not give it when a cell is its own neighbour.
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_AVAIL;
  nextra = NUM_EXTRA;
  pvector = new double[NUM_EXTRA]();
}

PairMindscaip::~PairMindscaip()
{
  if (copymode) return;
  delete[] pvector;
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }
}

void PairMindscaip::allocate()
{
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  for (int i = 0; i < n; ++i) {
    std::fill(setflag[i], setflag[i] + n, 0);
    std::fill(cutsq[i], cutsq[i] + n, 0.0);
  }
  allocated = 1;
}

bool PairMindscaip::in_hybrid() const
{
  return force->pair_style != nullptr && std::strncmp(force->pair_style, "hybrid", 6) == 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// input script: pair_style and pair_coeff
// ---------------------------------------------------------------------------------------------------------------------

void PairMindscaip::settings(int narg, char **arg)
{
  forget_model();
  if (narg < 1)
    error->all(FLERR, "pair_style mindscaip: no model given; write 'pair_style mindscaip model.pt'");
  const Options options = parse_options(narg - 1, arg + 1);
  timing = options.timing;
  open_model(arg[0], options);
  for (int iarg = 0; iarg < narg; ++iarg) arguments += " " + quoted(arg[iarg]);
}

// A second pair_style command reuses this object, and nothing of the first may outlive a refusal: under Python, errors
// are exceptions, and the run goes on.
void PairMindscaip::forget_model()
{
  backend.reset();
  exchange.reset();
  contract = mindscaip::Contract();
  set_up = false;
  numbers_of_type.clear();
  arguments.clear();
  type_elements.clear();
  if (allocated)
    for (int i = 0; i <= atom->ntypes; ++i) std::fill(setflag[i], setflag[i] + atom->ntypes + 1, 0);
}

void PairMindscaip::require_model(const char *command)
{
  if (!backend) error->all(FLERR, "{} of mindscaip: there is no model; give 'pair_style mindscaip model.pt' first", command);
}

PairMindscaip::Options PairMindscaip::parse_options(int narg, char **arg)
{
  Options options;
  const auto one_of = [this](const std::string &keyword, const std::string &value, const char *yes, const char *no) {
    if (value != yes && value != no)
      error->all(FLERR, "pair_style mindscaip: {} is '{}'; it must be {} or {}", keyword, value, no, yes);
    return value == yes;
  };
  for (int iarg = 0; iarg < narg; iarg += 2) {
    const std::string keyword = arg[iarg];
    if (keyword != "threads" && keyword != "device" && keyword != "exchange" && keyword != "timing")
      error->all(FLERR,
                 "pair_style mindscaip: unknown keyword '{}'; the keywords are 'threads N', 'device cpu|cuda|cuda:N', "
                 "'exchange host|device' and 'timing no|yes'",
                 keyword);
    if (iarg + 1 >= narg) error->all(FLERR, "pair_style mindscaip: the keyword '{}' needs a value after it", keyword);
    const std::string value = arg[iarg + 1];
    if (keyword == "threads") {
      options.num_threads = utils::inumeric(FLERR, value, false, lmp);
      if (options.num_threads < 1)
        error->all(FLERR, "pair_style mindscaip: threads {} is not a positive number of threads", value);
    } else if (keyword == "device") {
      const std::string number = value.compare(0, 5, "cuda:") == 0 ? value.substr(5) : "";
      const bool numbered = !number.empty() && number.size() < 3 &&
          number.find_first_not_of("0123456789") == std::string::npos && (number == "0" || number[0] != '0');
      if (value != "cpu" && value != "cuda" && !numbered)
        error->all(FLERR, "pair_style mindscaip: device '{}' is not known; use cpu, cuda, or cuda:N with the number of a GPU",
                   value);
      options.device = value;
    } else if (keyword == "exchange") {
      options.device_memory = one_of(keyword, value, "device", "host");
    } else {
      options.timing = one_of(keyword, value, "yes", "no");
    }
  }
  if (options.device_memory && options.device == "cpu")
    error->all(FLERR, "pair_style mindscaip: 'exchange device' needs a GPU; add 'device cuda', or leave it out");
  return options;
}

// One error on every rank when any rank has one, so that none is left waiting for the others. Collective.
void PairMindscaip::all_ranks_or_none(const std::string &message)
{
  const std::string first = mindscaip::first_message(world, message);
  if (!first.empty()) error->all(FLERR, "pair_style mindscaip: " + first);
}

void PairMindscaip::open_model(const std::string &path, const Options &options)
{
  // As for other potentials, a name that is not in the working directory is looked for in LAMMPS_POTENTIALS.
  model_path = utils::get_potential_file_path(path);
  std::string failure;
  int node_rank = 0, ranks_here = 1;
  mindscaip::ranks_on_node(world, node_rank, ranks_here);
  if (model_path.empty() || !platform::file_is_readable(model_path))
    failure = fmt::format("cannot read '{}'; give the path of a model.pt written by 'mindscaip export'", path);
  else
    failure = open_backend(options, node_rank);
  if (failure.empty() && comm->nprocs > 1) failure = explain_missing_stages();
  if (failure.empty() && comm->nprocs > 1) failure = explain_exchange(options);
  const std::string first = mindscaip::first_message(world, failure);
  if (!first.empty()) {
    forget_model();
    error->all(FLERR, "pair_style mindscaip: " + first);
  }
  if (comm->nprocs > 1) exchange = std::make_unique<mindscaip::MpiExchange>(world, options.device_memory);
  announce_model(options, ranks_here);
}

// Load the torch side and the model on this rank; returns what failed.
std::string PairMindscaip::open_backend(const Options &options, int node_rank)
{
  const std::string library = backend_path();
  // LAMMPS may bring a plain dgemm_ of its own (LINALG); without RTLD_DEEPBIND torch would compute with that one instead
  // of its fast library, three times slower.
  void *handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL | MINDSCAIP_DEEPBIND);
  if (handle == nullptr) return fmt::format("cannot load its torch side ({}); run 'mindscaip lammps build' again", dlerror());
  const auto open = reinterpret_cast<mindscaip::BackendOpen>(dlsym(handle, mindscaip::BACKEND_OPEN_SYMBOL));
  if (open == nullptr)
    return fmt::format("{} is not the torch side of this plugin; run 'mindscaip lammps build --force'", library);
  char message[1024] = "";
  const mindscaip::BackendOptions wanted{model_path.c_str(), options.num_threads, options.device.c_str(), node_rank};
  auto kind = mindscaip::OpenFailure::BUILD;    // all that a torch side of another build can say
  backend.reset(open(mindscaip::BACKEND_INTERFACE, &wanted, &kind, message, sizeof(message)));
  if (!backend) {
    const std::string reason = message;
    if (kind == mindscaip::OpenFailure::BUILD) return reason;
    if (kind == mindscaip::OpenFailure::DEVICE)
      return reason + "; give another one, 'device cpu', or 'device cuda' to use the CPU where there is no GPU";
    return fmt::format("'{}' is not a whole model.pt written by 'mindscaip export' (truncated, damaged or of another kind); "
                       "torch says: {}",
                       model_path, reason);
  }
  const std::string text = backend->contract();
  if (text.empty())
    return fmt::format("'{}' is a TorchScript file with no mindscaip contract in it; give a model.pt written by 'mindscaip "
                       "export'",
                       model_path);
  try {
    contract = mindscaip::parse_contract(text, "'" + model_path + "'");
  } catch (const std::runtime_error &e) {
    return e.what();
  }
  return "";
}

// With several ranks the model runs in stages, which not every file has.
std::string PairMindscaip::explain_missing_stages() const
{
  if (!contract.staged)
    return fmt::format("'{}' is an average over rotations, which runs on one MPI rank, and this run has {}; start LAMMPS "
                       "without mpiexec, or give the model that it was made from",
                       model_path, comm->nprocs);
  if (!backend->has_stages())
    return fmt::format("'{}' was written by an earlier mindscaip ({}) and has no stages for {} MPI ranks; export it again, "
                       "or start LAMMPS without mpiexec",
                       model_path, contract.mindscaip_version, comm->nprocs);
  return "";
}

// An MPI that does not know GPUs would read their addresses as its own.
std::string PairMindscaip::explain_exchange(const Options &options) const
{
  if (!options.device_memory) return "";
  const auto aware = mindscaip::mpi_is_cuda_aware();
  if (aware == mindscaip::CudaAware::NO)
    return "exchange device: the MPI of this LAMMPS is not CUDA-aware (MPIX_Query_cuda_support says no); leave 'exchange "
           "device' out, or start a LAMMPS that was built with a CUDA-aware MPI";
  if (aware == mindscaip::CudaAware::UNKNOWN && comm->me == 0)
    error->warning(FLERR,
                   "pair_style mindscaip: exchange device: this MPI does not say whether it is CUDA-aware; if the run "
                   "crashes, leave 'exchange device' out");
  return "";
}

void PairMindscaip::announce_model(const Options &options, int ranks_here)
{
  const std::string device = backend->device();
  const int num_devices = backend->num_devices();
  if (comm->me != 0) return;
  utils::logmesg(lmp, "mindscaip model {}: elements {}; cutoff {} A, list radius {} A; {}; torch {} on {}\n", model_path,
                 utils::join_words(contract.elements, " "), contract.cutoff, contract.list_cutoff, contract.dtype,
                 backend->torch_version(), device);
  if (options.device != "cpu" && num_devices == 0)
    error->warning(FLERR, "pair_style mindscaip: device cuda: this process sees no GPU; the model runs on the CPU");
  if (num_devices > 0 && (ranks_here > num_devices || (options.device != "cuda" && ranks_here > 1)))
    error->warning(FLERR, "pair_style mindscaip: {} MPI ranks share {} on this machine; one rank for each GPU is fastest",
                   ranks_here, options.device == "cuda" ? fmt::format("{} GPUs", num_devices) : device);
  if (!contract.conservative)
    error->warning(FLERR,
                   "pair_style mindscaip: the forces of '{}' are a direct output and not the gradient of its energy: energy "
                   "is not conserved, and virial, pressure and stress have no contribution of this pair style",
                   model_path);
  if (!contract.smooth)
    error->warning(FLERR, "pair_style mindscaip: the energy of '{}' jumps when neighbours change (a hard kNN graph)",
                   model_path);
}

void PairMindscaip::coeff(int narg, char **arg)
{
  require_model("pair_coeff");
  const int ntypes = atom->ntypes;
  if (narg < 2 || std::strcmp(arg[0], "*") != 0 || std::strcmp(arg[1], "*") != 0)
    error->all(FLERR, "pair_coeff of mindscaip must read 'pair_coeff * *' and then one element for each atom type");
  if (narg - 2 != ntypes)
    error->all(FLERR,
               "pair_coeff of mindscaip names {} elements for {} atom types; give one element (or NULL) for each type",
               narg - 2, ntypes);

  // Nothing is changed before the last element is known: under Python, errors are exceptions, and the run goes on.
  std::vector<int64_t> numbers(static_cast<size_t>(ntypes) + 1, 0);
  for (int type = 1; type <= ntypes; ++type) {
    const std::string symbol = arg[type + 1];
    if (symbol == "NULL") continue;
    if (std::find(contract.elements.begin(), contract.elements.end(), symbol) == contract.elements.end())
      error->all(FLERR, "pair_coeff of mindscaip: element '{}' of atom type {} is not in the model, which knows {}", symbol,
                 type, utils::join_words(contract.elements, " "));
    numbers[static_cast<size_t>(type)] = mindscaip::atomic_number(symbol);
  }
  numbers_of_type = std::move(numbers);
  type_elements.clear();
  for (int type = 1; type <= ntypes; ++type) type_elements += std::string(" ") + arg[type + 1];

  // Within pair_style hybrid, a type mapped to NULL is another style's business. On its own this style must answer for
  // every pair, and a NULL is fine as long as no atom has that type (which each step checks).
  if (!allocated) allocate();
  const bool alone = !in_hybrid();
  for (int i = 1; i <= ntypes; ++i)
    for (int j = i; j <= ntypes; ++j)
      setflag[i][j] = alone || (numbers_of_type[static_cast<size_t>(i)] != 0 && numbers_of_type[static_cast<size_t>(j)] != 0);
}

// ---------------------------------------------------------------------------------------------------------------------
// before a run: units and everything that would change a many-body potential silently
// ---------------------------------------------------------------------------------------------------------------------

void PairMindscaip::init_style()
{
  require_model("a run");
  set_up = false;
  const std::string units = update->unit_style;
  if (units == "metal")
    energy_factor = 1.0;
  else if (units == "real")
    energy_factor = mindscaip::EV_TO_KCAL_PER_MOL;
  else
    error->all(FLERR, "pair_style mindscaip: units {} are not supported; use 'units metal' or 'units real'", units);

  if (!force->newton_pair)
    error->all(FLERR, "pair_style mindscaip needs 'newton on' for pairs, and it is off; remove 'newton off' from the input");
  if (!atom->tag_enable)
    error->all(FLERR, "pair_style mindscaip needs atom IDs, and they are off; remove 'atom_modify id no' from the input");
  if (atom->molecular != Atom::ATOMIC)
    for (int k = 1; k <= 3; ++k)
      if (force->special_lj[k] != 1.0 || force->special_coul[k] != 1.0)
        error->all(FLERR,
                   "pair_style mindscaip: special_bonds lj {} {} {} coul {} {} {} would drop or weaken bonded neighbours of "
                   "the model; use 'special_bonds lj/coul 1 1 1'",
                   force->special_lj[1], force->special_lj[2], force->special_lj[3], force->special_coul[1],
                   force->special_coul[2], force->special_coul[3]);
  // The lists of exclusions, and not the flag made from them, which LAMMPS sets after this.
  if (neighbor->nex_type || neighbor->nex_group || neighbor->nex_mol)
    error->all(FLERR,
               "pair_style mindscaip: 'neigh_modify exclude' hides neighbours from the model; use 'neigh_modify exclude none'");
  if (neighbor->includegroup)
    error->all(FLERR,
               "pair_style mindscaip: 'neigh_modify include' hides neighbours from the model; use 'neigh_modify include all'");
  if (CommGroup::of(comm))
    error->all(FLERR, "pair_style mindscaip: 'comm_modify group' hides neighbours from the model; use 'comm_modify group all'");

  bool heat_flux = false;
  for (const Compute *compute : modify->get_compute_list()) heat_flux |= std::string(compute->style) == "heat/flux";
  if (heat_flux && !told_heat_flux && comm->me == 0)
    error->warning(FLERR, "pair_style mindscaip: compute heat/flux lacks the heat that message passing moves between atoms; see "
                          "'Heat flux' in docs/lammps.md before using it for Green-Kubo");
  told_heat_flux |= heat_flux;

  seconds = Seconds();
  calls = 0;
  neighbor->add_request(this, NeighConst::REQ_FULL);
  set_up = true;
}

double PairMindscaip::init_one(int i, int j)
{
  if (setflag[i][j] == 0)
    error->all(FLERR, "pair_style mindscaip: no pair_coeff for atom types {} and {}; give 'pair_coeff * *' after pair_style", i,
               j);
  return contract.list_cutoff;
}

// ---------------------------------------------------------------------------------------------------------------------
// a step
// ---------------------------------------------------------------------------------------------------------------------

// Whatever can go wrong on one rank alone is agreed on before ranks wait for each other.
void PairMindscaip::compute(int eflag, int vflag)
{
  // 'run N pre no' comes here without init_style.
  require_model("a run");
  if (!set_up)
    error->all(FLERR, "pair_style mindscaip: the model has not been set up since the last pair_style command or error; give "
                      "'run' without 'pre no'");
  ev_init(eflag, vflag);
  const double start = platform::walltime();
  const std::string failure = build_graph();
  const double built = platform::walltime();
  all_ranks_or_none(failure);
  const double agreed = platform::walltime();
  const double exchanged = exchange ? exchange->seconds() : 0.0;
  const std::string model_failure = evaluate_model();
  const double exchanging = exchange ? exchange->seconds() - exchanged : 0.0;
  const double evaluated = platform::walltime();
  all_ranks_or_none(model_failure);
  const double agreed_again = platform::walltime();
  scatter();
  seconds.graph += built - start + platform::walltime() - agreed_again;
  seconds.model += evaluated - agreed - exchanging;
  seconds.exchange += agreed - built + exchanging + agreed_again - evaluated;
  ++calls;
}

std::string PairMindscaip::describe(int i) const
{
  double **x = atom->x;
  return fmt::format("atom {} (type {}) at {} {} {}", atom->tag[i], atom->type[i], x[i][0], x[i][1], x[i][2]);
}

// The model is not exactly invariant under rotation, so it must see the frame that the user gave: LAMMPS turns a general
// triclinic box into its own frame and remembers the rotation. Row-major [9], or nullptr when the frames are the same.
const double *PairMindscaip::rotation_to_model() const
{
#if MINDSCAIP_LAMMPS_VERSION >= 20240417
  if (domain->triclinic_general) return &domain->rotate_r2g[0][0];
#endif
  return nullptr;
}

// Slots and edges of this rank; returns what is wrong with them. Collective: ghosts ask their owners for their slots.
std::string PairMindscaip::build_graph()
{
  std::string failure;
  if (comm->get_comm_cutoff() < contract.list_cutoff)
    failure = fmt::format("ghost atoms reach {} A and the model needs {} A; raise it with 'comm_modify cutoff {}'",
                          comm->get_comm_cutoff(), contract.list_cutoff, contract.list_cutoff + neighbor->skin);

  // A position that is not finite drops out of every neighbour list, so the lists alone would not show it.
  for (int i = 0; i < atom->nlocal && failure.empty(); ++i)
    for (int a = 0; a < 3; ++a)
      if (!std::isfinite(atom->x[i][a])) failure = explain_not_finite(i);

  const mindscaip::NeighborView neighbors{atom->nlocal,   atom->nlocal + atom->nghost, list->inum,
                                          list->ilist,    list->numneigh,              list->firstneigh,
                                          NEIGHMASK,      atom->x,                     atom->type};
  auto status = graph.assign_slots(neighbors, numbers_of_type, !in_hybrid(), comm->me);
  comm->forward_comm(this);
  if (status == mindscaip::EdgeGraph::Status::OK && failure.empty())
    status = graph.list_edges(neighbors, numbers_of_type, contract.list_cutoff, rotation_to_model());
  return failure.empty() ? explain(status) : failure;
}

int PairMindscaip::pack_forward_comm(int n, int *atoms, double *buffer, int, int *)
{
  int m = 0;
  for (int k = 0; k < n; ++k) {
    const mindscaip::Home &home = graph.home(atoms[k]);
    buffer[m++] = home.rank;
    buffer[m++] = static_cast<double>(home.slot);
  }
  return m;
}

void PairMindscaip::unpack_forward_comm(int n, int first, double *buffer)
{
  int m = 0;
  for (int ghost = first; ghost < first + n; ++ghost, m += HOME_SIZE)
    graph.set_home(ghost, {static_cast<int>(buffer[m]), static_cast<int64_t>(buffer[m + 1])});
}

std::string PairMindscaip::explain_not_finite(int i) const
{
  return describe(i) +
      " has a position that is not finite; the run has become unstable (reduce the timestep or relax the start)";
}

std::string PairMindscaip::explain(mindscaip::EdgeGraph::Status status) const
{
  using Status = mindscaip::EdgeGraph::Status;
  switch (status) {
    case Status::OK:
      break;
    case Status::NOT_FINITE:
      return explain_not_finite(graph.first);
    case Status::COINCIDENT:
      return fmt::format("{} and atom {} stand on the same place; separate them", describe(graph.first),
                         atom->tag[graph.second]);
    case Status::UNMAPPED:
      return describe(graph.first) +
          " has a type that pair_coeff maps to NULL; map the type to an element, or use pair_style hybrid/overlay with "
          "another style for it";
    case Status::LOST_OWNER:
      return describe(graph.first) + " is a ghost of an atom that the model does not see; rebuild the neighbour list";
  }
  return "";
}

// The model on this rank's graph; returns what failed. A failure between two exchanges leaves other ranks waiting, so it
// ends them all at once.
std::string PairMindscaip::evaluate_model()
{
  const mindscaip::GraphView view = graph.view();
  bool done;
  if (exchange) {
    const mindscaip::Stages stages{contract.num_layers, contract.ranking == "mutual", contract.conservative};
    done = backend->evaluate_part(view, stages, *exchange, output);
  } else {
    done = backend->evaluate(view, output);
  }
  if (!done)
    error->one(FLERR, "pair_style mindscaip: the model '{}' failed on {} atoms with {} edges; torch {} says: {}", model_path,
               graph.num_atoms(), graph.num_edges(), backend->torch_version(), backend->error());
  const bool direct = !contract.conservative;
  if ((direct && output.direct_forces == nullptr && graph.num_atoms() > 0) ||
      (!direct && output.edge_gradients == nullptr && graph.num_edges() > 0))
    return fmt::format("the model '{}' returned no {}, which its contract promises; export it again", model_path,
                       direct ? "direct forces" : "edge gradients");
  return explain_results();
}

// A gradient may overflow where the energy is still a number, and the integrator would carry it on without a word.
std::string PairMindscaip::explain_results() const
{
  const auto blame = [this](int64_t slot, const char *what) {
    return fmt::format("the model gives {} {} that is not finite; the run has become unstable (reduce the timestep or relax "
                       "the start)",
                       describe(graph.atom_of_slot(slot)), what);
  };
  const auto finite = [](const double *v) { return std::isfinite(v[0]) && std::isfinite(v[1]) && std::isfinite(v[2]); };
  for (int64_t slot = 0; slot < graph.num_atoms(); ++slot) {
    if (!std::isfinite(output.atom_energies[slot])) return blame(slot, "an energy");
    if (!contract.conservative && !finite(output.direct_forces + 3 * slot)) return blame(slot, "a force");
  }
  if (contract.conservative)
    for (int64_t e = 0; e < graph.num_edges(); ++e)
      if (!finite(output.edge_gradients + 3 * e)) return blame(graph.center_slot(e), "an energy gradient");
  return "";
}

// Energies, forces F_i = sum_{e=(i,*)} g_e - sum_{e=(*,i)} g_e and the virial W = -sum_e r_e (x) g_e. The forces of
// ghosts stay on the ghosts: with newton on, LAMMPS adds them to their owners after this.
void PairMindscaip::scatter()
{
  double **f = atom->f;
  std::fill(pvector, pvector + NUM_EXTRA, 0.0);

  double energy = 0.0;
  for (int64_t slot = 0; slot < graph.num_atoms(); ++slot) {
    const double atom_energy = energy_factor * output.atom_energies[slot];
    energy += atom_energy;
    if (eflag_atom) eatom[graph.atom_of_slot(slot)] += atom_energy;
  }
  if (eflag_global) eng_vdwl += energy;

  if (!contract.conservative) {
    // Directions of direct forces are in the frame of the model; the inverse of a rotation is its transpose.
    const double *rotation = rotation_to_model();
    for (int64_t slot = 0; slot < graph.num_atoms(); ++slot) {
      const double *direct = output.direct_forces + 3 * slot;
      double *fi = f[graph.atom_of_slot(slot)];
      for (int a = 0; a < 3; ++a) {
        double value = direct[a];
        if (rotation != nullptr) value = rotation[a] * direct[0] + rotation[3 + a] * direct[1] + rotation[6 + a] * direct[2];
        fi[a] += energy_factor * value;
      }
    }
    return;
  }

  const double *rotation = rotation_to_model();
  for (int64_t e = 0; e < graph.num_edges(); ++e) {
    const double *vector = graph.edge_vector(e);
    double gradient[3], r[3] = {vector[0], vector[1], vector[2]};
    for (int a = 0; a < 3; ++a) gradient[a] = energy_factor * output.edge_gradients[3 * e + a];
    for (int a = 0; a < 3; ++a)
      for (int b = 0; b < 3; ++b) pvector[3 * a + b] -= r[a] * gradient[b];
    if (rotation != nullptr) {
      const double g[3] = {gradient[0], gradient[1], gradient[2]};
      for (int a = 0; a < 3; ++a) {
        gradient[a] = rotation[a] * g[0] + rotation[3 + a] * g[1] + rotation[6 + a] * g[2];
        r[a] = rotation[a] * vector[0] + rotation[3 + a] * vector[1] + rotation[6 + a] * vector[2];
      }
    }
    const int i = graph.atom_of_slot(graph.center_slot(e));
    const int j = graph.neighbor_atom(e);
    for (int a = 0; a < 3; ++a) {
      f[i][a] += gradient[a];
      f[j][a] -= gradient[a];
    }
    if (vflag_either) tally_edge_virial(i, j, r, gradient);
  }
}

// An edge gives half of -r (x) g to each of its ends, as a pair potential would. LAMMPS keeps six components of a virial;
// a model that is not exactly rotation-invariant has nine, and their symmetric part is the derivative with respect to
// strain. The nine of the centroid virial are ordered xx yy zz xy xz yz yx zx zy.
void PairMindscaip::tally_edge_virial(int i, int j, const double *r, const double *g)
{
  const double w[9] = {-r[0] * g[0], -r[1] * g[1], -r[2] * g[2], -r[0] * g[1], -r[0] * g[2],
                       -r[1] * g[2], -r[1] * g[0], -r[2] * g[0], -r[2] * g[1]};
  const double v[6] = {w[0], w[1], w[2], 0.5 * (w[3] + w[6]), 0.5 * (w[4] + w[7]), 0.5 * (w[5] + w[8])};
  if (vflag_global)
    for (int k = 0; k < 6; ++k) virial[k] += v[k];
  if (vflag_atom)
    for (int k = 0; k < 6; ++k) {
      vatom[i][k] += 0.5 * v[k];
      vatom[j][k] += 0.5 * v[k];
    }
  if (cvflag_atom)
    for (int k = 0; k < 9; ++k) {
      cvatom[i][k] += 0.5 * w[k];
      cvatom[j][k] += 0.5 * w[k];
    }
}

double PairMindscaip::memory_usage()
{
  return Pair::memory_usage() + graph.bytes() + (exchange ? exchange->bytes() : 0.0);
}

// ---------------------------------------------------------------------------------------------------------------------
// after a run
// ---------------------------------------------------------------------------------------------------------------------

// Where the time of this pair style went, when asked for with 'timing yes'.
void PairMindscaip::finish()
{
  if (!timing || calls == 0) return;
  const double mine[3] = {seconds.graph, seconds.model, seconds.exchange};
  double least[3], sum[3], most[3];
  MPI_Allreduce(mine, least, 3, MPI_DOUBLE, MPI_MIN, world);
  MPI_Allreduce(mine, sum, 3, MPI_DOUBLE, MPI_SUM, world);
  MPI_Allreduce(mine, most, 3, MPI_DOUBLE, MPI_MAX, world);
  if (comm->me == 0) {
    const double total = std::max(sum[0] + sum[1] + sum[2], 1e-300);
    const char *const names[3] = {"graph", "model", "exchange"};
    std::string table = fmt::format("\npair_style mindscaip: {} evaluations, seconds of a rank\n"
                                    "Section  |  min time  |  avg time  |  max time  | %total\n",
                                    calls);
    for (int k = 0; k < 3; ++k)
      table += fmt::format("{:<9}| {:<10.5g} | {:<10.5g} | {:<10.5g} | {:6.2f}\n", names[k], least[k], sum[k] / comm->nprocs,
                           most[k], 100.0 * sum[k] / total);
    utils::logmesg(lmp, table);
  }
  seconds = Seconds();
  calls = 0;
}

// A hybrid style is set up as a whole, so one of its parts cannot be given again alone.
std::string PairMindscaip::commands_to_give_again() const
{
  if (!in_hybrid()) return "give these again after read_restart:\npair_style mindscaip" + arguments +
        "\npair_coeff * *" + type_elements;
  // Of several instances each has a number, in the order of the pair_style command.
  int number = 0, count = 0;
  Pair *previous = nullptr;
  for (;;) {
    Pair *found = force->pair_match("mindscaip", 1, count + 1);
    if (found == nullptr || found == previous) break;
    ++count;
    if (found == this) number = count;
    previous = found;
  }
  return fmt::format("after read_restart give the whole 'pair_style {}' command again, with all of its sub-styles in their "
                     "order, and then all pair_coeff commands; {} of it reads\n    mindscaip{}\nand its pair_coeff\n"
                     "    pair_coeff * * mindscaip{}{}",
                     force->pair_style, count > 1 ? fmt::format("mindscaip number {}", number) : "the part", arguments,
                     count > 1 ? fmt::format(" {}", number) : "", type_elements);
}

// A restart file holds the commands to give again and not the model: the file may have moved or changed since.
void PairMindscaip::write_restart(FILE *file)
{
  write_restart_settings(file);
}

void PairMindscaip::read_restart(FILE *file)
{
  read_restart_settings(file);
}

void PairMindscaip::write_restart_settings(FILE *file)
{
  const std::string text = commands_to_give_again();
  const auto length = static_cast<int>(text.size());
  fwrite(&length, sizeof(int), 1, file);
  fwrite(text.data(), 1, text.size(), file);
}

void PairMindscaip::read_restart_settings(FILE *file)
{
  if (comm->me != 0) return;
  int length = 0;
  utils::sfread(FLERR, &length, sizeof(int), 1, file, nullptr, error);
  std::string text(static_cast<size_t>(std::max(length, 0)), '\0');
  if (length > 0) utils::sfread(FLERR, &text[0], 1, text.size(), file, nullptr, error);
  utils::logmesg(lmp, "pair_style mindscaip keeps no model in restart files; {}\n", text);
}
