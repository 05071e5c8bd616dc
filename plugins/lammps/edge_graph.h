// From a LAMMPS neighbour list to the graph that the model reads: slots (atoms) and edges within the list radius.
//
// Nothing of LAMMPS's classes crosses this header, so the graph is built the same way for any caller.

#ifndef MINDSCAIP_EDGE_GRAPH_H
#define MINDSCAIP_EDGE_GRAPH_H

#include "backend.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mindscaip {

// What LAMMPS gives: a full neighbour list, with ghosts beyond the nlocal owned atoms.
struct NeighborView {
  int nlocal, nall;                // owned atoms, owned + ghost atoms
  int inum;                        // atoms that have a list
  const int *ilist;                // their local indices
  const int *numneigh;             // [nlocal] number of neighbours
  const int *const *firstneigh;    // [nlocal] neighbours, special-bond bits included
  int mask;                        // NEIGHMASK: removes those bits
  const double *const *x;          // [nall][3] positions
  const int *type;                 // [nall] atom types
};

// Where an atom is at home: the rank that owns it, and its slot there (-1: it has none).
struct Home {
  int rank;
  int64_t slot;
};

// Two steps: assign_slots() numbers the owned atoms, then the caller asks every ghost's owner for home() and sets it, then
// list_edges() reads the neighbour list.
class EdgeGraph {
 public:
  enum class Status { OK, NOT_FINITE, COINCIDENT, UNMAPPED, LOST_OWNER };

  // `numbers_of_type[type]` is the atomic number, or 0 for a type mapped to NULL: its atoms are left out, or refused when
  // `null_is_error`. On failure `first` and `second` hold the local indices of the atoms to blame.
  Status assign_slots(const NeighborView &view, const std::vector<int64_t> &numbers_of_type, bool null_is_error, int me);
  const Home &home(int atom) const { return homes_[static_cast<size_t>(atom)]; }
  void set_home(int ghost, const Home &home) { homes_[static_cast<size_t>(ghost)] = home; }

  // `to_model` (row-major [9], or nullptr) rotates LAMMPS's frame into the frame of the model.
  Status list_edges(const NeighborView &view, const std::vector<int64_t> &numbers_of_type, double list_cutoff,
                    const double *to_model);

  GraphView view() const;
  int64_t num_atoms() const { return static_cast<int64_t>(slots_.size()); }
  int64_t num_edges() const { return num_edges_; }
  int atom_of_slot(int64_t slot) const { return slots_[static_cast<size_t>(slot)]; }
  int64_t center_slot(int64_t edge) const { return index_[static_cast<size_t>(edge)]; }
  int neighbor_atom(int64_t edge) const { return neighbor_atoms_[static_cast<size_t>(edge)]; }
  const double *edge_vector(int64_t edge) const { return &vectors_[static_cast<size_t>(3 * edge)]; }
  double bytes() const;

  int first = -1, second = -1;

 private:
  struct Candidate {
    int64_t slot;      // slot of the neighbour's owner, or beyond the atoms of this rank
    int atom;          // local or ghost index of the neighbour
    double vector[3];
  };

  std::vector<int> slots_;              // slot -> local index
  std::vector<Home> homes_;             // [nall]
  std::vector<int64_t> numbers_;        // [atoms + remote]
  std::vector<int64_t> remote_of_;      // [nall] number among the remote atoms, or -1
  std::vector<int64_t> remote_rank_;    // [remote]
  std::vector<int64_t> remote_slot_;    // [remote]
  std::vector<int64_t> index_;          // [2][capacity]: centre slots, then neighbour slots
  std::vector<double> vectors_;         // [capacity][3]
  std::vector<int> neighbor_atoms_;     // [capacity] where the neighbour's force goes
  std::vector<Candidate> candidates_;   // of one centre
  int64_t num_edges_ = 0;
  int64_t capacity_ = 0;
  int me_ = 0;
};

}    // namespace mindscaip

#endif
