// pair_style mindscaip: an exported model.pt as a LAMMPS pair style.
//
// One step is three separate stages: build the graph (edge_graph), call the model (backend), scatter the results.

#ifndef LMP_PAIR_MINDSCAIP_H
#define LMP_PAIR_MINDSCAIP_H

#include "backend.h"
#include "contract.h"
#include "edge_graph.h"

#include "pair.h"

#include <cstdint>
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
  double memory_usage() override;

 private:
  void allocate();
  void open_model(const std::string &path, int num_threads);
  bool in_hybrid() const;
  const double *rotation_to_model() const;
  void build_graph();
  void evaluate_model();
  void scatter();
  void tally_edge_virial(int i, int j, const double *vector, const double *gradient);
  std::string describe(int atom) const;

  std::string model_path;
  std::unique_ptr<mindscaip::Backend> backend;
  mindscaip::Contract contract;
  std::vector<int64_t> numbers_of_type;    // [ntypes + 1] atomic number, 0 for a type mapped to NULL
  mindscaip::EdgeGraph graph;
  mindscaip::ModelOutput output{};
  double energy_factor = 1.0;    // eV to the energy unit of the run
};

}    // namespace LAMMPS_NS

#endif
