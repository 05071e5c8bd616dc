// The contract of an exported model: flat "key value" lines, written by mindscaip/contract.py.

#ifndef MINDSCAIP_CONTRACT_H
#define MINDSCAIP_CONTRACT_H

#include <string>
#include <vector>

namespace mindscaip {

constexpr int CONTRACT_VERSION = 1;    // the newest contract that this plugin reads

struct Contract {
  std::vector<std::string> elements;    // symbols that the model knows
  double cutoff = 0.0;                  // A, beyond it an edge has no weight
  double list_cutoff = 0.0;             // A, every pair closer than this must be listed
  bool conservative = true;             // forces are the gradient of the energy
  bool smooth = true;                   // false: the energy jumps when neighbours change
  bool staged = true;                   // false: forward() alone, no stages for several ranks
  int num_layers = 0;
  std::string ranking;                  // source or mutual
  std::string dtype;
  std::string mindscaip_version;
  std::string torch_version;
};

// Parse and check the contract; throws std::runtime_error with one sentence that names the value and the cure.
// `source` names the file in that sentence.
Contract parse_contract(const std::string &text, const std::string &source);

// Atomic number of a symbol such as "Cl", or 0 when there is no such element.
int atomic_number(const std::string &symbol);

}    // namespace mindscaip

#endif
