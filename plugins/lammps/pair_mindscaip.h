// pair_style mindscaip: an exported model.pt as a LAMMPS pair style.
//
// One step is three separate stages: build the graph (edge_graph), call the model (backend), scatter the results. With
// several ranks the model is called one stage of a layer after the other, with an exchange between them.

#ifndef LMP_PAIR_MINDSCAIP_H
#define LMP_PAIR_MINDSCAIP_H

#include "backend.h"
#include "contract.h"
#include "edge_graph.h"
#include "exchange.h"

#include "pair.h"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

class PairMindscaip : public Pair {
 public:
  explicit PairMindscaip(class LAMMPS *);
  ~PairMindscaip() override;

  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void compute(int, int) override;
  void finish() override;
  double memory_usage() override;

  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;

  void write_restart(FILE *) override;
  void read_restart(FILE *) override;
  void write_restart_settings(FILE *) override;
  void read_restart_settings(FILE *) override;

 private:
  // What pair_style was told, beside the file.
  struct Options {
    int num_threads = 0;
    std::string device = "cpu";
    bool device_memory = false;
    bool timing = false;
  };

  // Seconds of this rank since the run began; waiting for other ranks counts as exchange, graph includes the forces.
  struct Seconds {
    double graph = 0.0, model = 0.0, exchange = 0.0;
  };

  void allocate();
  Options parse_options(int, char **);
  void forget_model();
  void require_model(const char *command);
  void open_model(const std::string &path, const Options &options);
  std::string open_backend(const Options &options, int node_rank);
  void announce_model(const Options &options, int ranks_here);
  std::string explain_missing_stages() const;
  std::string explain_exchange(const Options &options) const;
  std::string commands_to_give_again() const;
  bool in_hybrid() const;
  const double *rotation_to_model() const;
  std::string build_graph();
  std::string explain_not_finite(int atom) const;
  std::string explain(mindscaip::EdgeGraph::Status status) const;
  std::string evaluate_model();
  std::string explain_results() const;
  void scatter();
  void tally_edge_virial(int i, int j, const double *vector, const double *gradient);
  std::string describe(int atom) const;
  void all_ranks_or_none(const std::string &message);

  std::string model_path;
  std::string arguments;       // of pair_style, for restart files
  std::string type_elements;   // of pair_coeff, after its asterisks
  std::unique_ptr<mindscaip::Backend> backend;
  std::unique_ptr<mindscaip::MpiExchange> exchange;
  mindscaip::Contract contract;
  std::vector<int64_t> numbers_of_type;    // [ntypes + 1] atomic number, 0 for a type mapped to NULL
  mindscaip::EdgeGraph graph;
  mindscaip::ModelOutput output{};
  bool set_up = false;           // by init_style, for this model
  double energy_factor = 1.0;    // eV to the energy unit of the run
  bool timing = false;
  bool told_heat_flux = false;
  Seconds seconds;
  bigint calls = 0;
};

}    // namespace LAMMPS_NS

#endif
