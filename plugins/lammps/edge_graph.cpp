#include "edge_graph.h"

#include <algorithm>
#include <cmath>

namespace mindscaip {

namespace {

// Two atoms closer than this are on one place: a direction can no longer be taken.
constexpr double COINCIDENT_SQUARED = 1e-16;    // A^2

bool finite(const double *r)
{
  return std::isfinite(r[0]) && std::isfinite(r[1]) && std::isfinite(r[2]);
}

}    // namespace

EdgeGraph::Status EdgeGraph::assign_slots(const NeighborView &view, const std::vector<int64_t> &numbers_of_type,
                                          bool null_is_error, int me)
{
  me_ = me;
  num_edges_ = 0;
  slots_.clear();
  numbers_.clear();
  remote_rank_.clear();
  remote_slot_.clear();
  homes_.assign(static_cast<size_t>(view.nall), Home{me, -1});
  // The buffers are never without memory: torch wants an address also where there is nothing to read.
  for (auto *buffer : {&numbers_, &remote_rank_, &remote_slot_}) buffer->reserve(1);

  int64_t listed = 0;
  for (int ii = 0; ii < view.inum; ++ii) {
    const int i = view.ilist[ii];
    const int64_t number = numbers_of_type[static_cast<size_t>(view.type[i])];
    if (number == 0) {
      if (!null_is_error) continue;
      first = i;
      return Status::UNMAPPED;
    }
    if (!finite(view.x[i])) {
      first = i;
      return Status::NOT_FINITE;
    }
    homes_[static_cast<size_t>(i)].slot = num_atoms();
    slots_.push_back(i);
    numbers_.push_back(number);
    listed += view.numneigh[i];
  }

  // LAMMPS's list reaches further than the list radius (its skin), so it bounds the number of edges.
  if (listed > capacity_ || capacity_ == 0) {
    capacity_ = listed + listed / 8 + 1;
    index_.resize(static_cast<size_t>(2 * capacity_));
    vectors_.resize(static_cast<size_t>(3 * capacity_));
    neighbor_atoms_.resize(static_cast<size_t>(capacity_));
  }
  return Status::OK;
}

EdgeGraph::Status EdgeGraph::list_edges(const NeighborView &view, const std::vector<int64_t> &numbers_of_type,
                                        double list_cutoff, const double *to_model)
{
  remote_of_.assign(static_cast<size_t>(view.nall), -1);
  const double cutoff_squared = list_cutoff * list_cutoff;
  for (int64_t center = 0; center < num_atoms(); ++center) {
    const int i = slots_[static_cast<size_t>(center)];
    const double *xi = view.x[i];
    candidates_.clear();
    for (int jj = 0; jj < view.numneigh[i]; ++jj) {
      const int j = view.firstneigh[i][jj] & view.mask;
      const int64_t number = numbers_of_type[static_cast<size_t>(view.type[j])];
      if (number == 0) continue;
      const double *xj = view.x[j];
      const double d[3] = {xj[0] - xi[0], xj[1] - xi[1], xj[2] - xi[2]};
      const double squared = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
      if (!std::isfinite(squared)) {
        first = j;
        return Status::NOT_FINITE;
      }
      if (squared >= cutoff_squared) continue;
      if (squared < COINCIDENT_SQUARED) {
        first = i;
        second = j;
        return Status::COINCIDENT;
      }
      const Home &owner = home(j);
      if (owner.slot < 0) {
        first = j;
        return Status::LOST_OWNER;
      }
      int64_t slot = owner.slot;
      if (owner.rank != me_) {
        int64_t &remote = remote_of_[static_cast<size_t>(j)];
        if (remote < 0) {
          remote = static_cast<int64_t>(remote_rank_.size());
          remote_rank_.push_back(owner.rank);
          remote_slot_.push_back(owner.slot);
          numbers_.push_back(number);
        }
        slot = num_atoms() + remote;
      }
      Candidate candidate{slot, j, {d[0], d[1], d[2]}};
      if (to_model != nullptr)
        for (int a = 0; a < 3; ++a)
          candidate.vector[a] = to_model[3 * a] * d[0] + to_model[3 * a + 1] * d[1] + to_model[3 * a + 2] * d[2];
      candidates_.push_back(candidate);
    }

    // One order whatever the bins of the neighbour list were, so that sums are the same from run to run.
    std::sort(candidates_.begin(), candidates_.end(), [](const Candidate &a, const Candidate &b) {
      if (a.slot != b.slot) return a.slot < b.slot;
      return std::lexicographical_compare(a.vector, a.vector + 3, b.vector, b.vector + 3);
    });
    for (const Candidate &candidate : candidates_) {
      const auto e = static_cast<size_t>(num_edges_++);
      index_[e] = center;
      index_[static_cast<size_t>(capacity_) + e] = candidate.slot;
      neighbor_atoms_[e] = candidate.atom;
      std::copy(candidate.vector, candidate.vector + 3, &vectors_[3 * e]);
    }
  }
  return Status::OK;
}

GraphView EdgeGraph::view() const
{
  return {num_atoms(),
          static_cast<int64_t>(remote_rank_.size()),
          num_edges_,
          capacity_,
          numbers_.data(),
          remote_rank_.data(),
          remote_slot_.data(),
          index_.data(),
          vectors_.data()};
}

double EdgeGraph::bytes() const
{
  const size_t integers = numbers_.capacity() + remote_of_.capacity() + remote_rank_.capacity() +
      remote_slot_.capacity() + index_.capacity();
  return static_cast<double>((slots_.capacity() + neighbor_atoms_.capacity()) * sizeof(int) +
                             homes_.capacity() * sizeof(Home) + integers * sizeof(int64_t) +
                             vectors_.capacity() * sizeof(double) + candidates_.capacity() * sizeof(Candidate));
}

}    // namespace mindscaip
