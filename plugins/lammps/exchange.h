// What ranks tell each other: rows of edges from owner to owner, and whether all of them are well.
//
// LAMMPS's own communication copies whole atoms to every rank that sees a ghost of them. A token belongs to one edge, and
// one other rank needs it: the owner of the neighbour. So edges travel straight between the two owners, a hundredth of
// the volume, whatever the grid of processors, and the transpose of a transfer is the transfer back.

#ifndef MINDSCAIP_EXCHANGE_H
#define MINDSCAIP_EXCHANGE_H

#include "backend.h"

#include <mpi.h>

#include <string>
#include <vector>

namespace mindscaip {

class MpiExchange : public Exchange {
 public:
  MpiExchange(MPI_Comm world, bool device_memory);

  int64_t open(Plan plan, int64_t count, const int64_t *ranks, const int64_t *slots) override;
  const int64_t *arriving_slots(Plan plan) const override { return routes_[plan].slots.data(); }
  void to_neighbors(Plan plan, const void *leaving, void *arriving, size_t row_bytes) override;
  void to_centers(Plan plan, const void *arriving, void *leaving, size_t row_bytes) override;
  bool reads_device_memory() const override { return device_memory_; }

  double seconds() const { return seconds_; }    // spent in here, waiting for others included
  double bytes() const;

 private:
  struct Route {
    std::vector<int64_t> leaving, arriving;    // [ranks] number of edges
    std::vector<int64_t> slots;                // [arriving edges] slot of the neighbour
  };

  void move(const std::vector<int64_t> &send, const char *out, const std::vector<int64_t> &receive, char *in,
            size_t row_bytes);

  MPI_Comm world_;
  bool device_memory_;
  int num_ranks_, me_;
  Route routes_[NUM_PLANS];
  std::vector<MPI_Request> requests_;
  double seconds_ = 0.0;
};

// The message of the lowest rank that has one, on every rank; empty when none has. Collective.
std::string first_message(MPI_Comm world, const std::string &mine);

// Whether MPI reads the memory of GPUs; UNKNOWN where it does not say.
enum class CudaAware { NO, YES, UNKNOWN };
CudaAware mpi_is_cuda_aware();

// Number of this rank among those on the same machine, and how many these are. Collective.
void ranks_on_node(MPI_Comm world, int &number, int &count);

}    // namespace mindscaip

#endif
