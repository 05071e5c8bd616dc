#include "contract.h"

#include <cmath>
#include <locale>
#include <map>
#include <sstream>
#include <stdexcept>

namespace mindscaip {

namespace {

const char EDGE_CONVENTION[] =
    "edge_index[0]=center,edge_index[1]=neighbor,edge_vector=r_neighbor-r_center+S@cell";

const char SYMBOLS[] =
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
    "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr "
    "Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og";

using Lines = std::map<std::string, std::string>;

Lines split_lines(const std::string &text)
{
  Lines found;
  std::istringstream stream(text);
  std::string line;
  while (std::getline(stream, line)) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const auto blank = line.find(' ');
    if (blank == std::string::npos)
      found[line] = "";
    else
      found[line.substr(0, blank)] = line.substr(blank + 1);
  }
  return found;
}

const std::string &require(const Lines &lines, const std::string &key, const std::string &source)
{
  const auto entry = lines.find(key);
  if (entry == lines.end())
    throw std::runtime_error(source + ": its contract lacks the key '" + key + "'; export the model again");
  return entry->second;
}

template <typename Number> Number parse_number(const Lines &lines, const std::string &key, const std::string &source)
{
  const std::string &raw = require(lines, key, source);
  std::istringstream stream(raw);
  stream.imbue(std::locale::classic());
  Number value{};
  stream >> value;
  if (stream.fail() || !stream.eof())
    throw std::runtime_error(source + ": its contract has " + key + " = '" + raw +
                             "', which is not a number; export the model again");
  return value;
}

bool parse_bool(const Lines &lines, const std::string &key, const std::string &source)
{
  const std::string &raw = require(lines, key, source);
  if (raw != "true" && raw != "false")
    throw std::runtime_error(source + ": its contract has " + key + " = '" + raw +
                             "', not true or false; export the model again");
  return raw == "true";
}

void require_value(const Lines &lines, const std::string &key, const std::string &expected, const std::string &source)
{
  const std::string &raw = require(lines, key, source);
  if (raw != expected)
    throw std::runtime_error(source + ": its contract has " + key + " = '" + raw + "', this plugin needs '" +
                             expected + "'; export the model again");
}

}    // namespace

int atomic_number(const std::string &symbol)
{
  std::istringstream stream(SYMBOLS);
  std::string known;
  for (int number = 1; stream >> known; ++number)
    if (known == symbol) return number;
  return 0;
}

Contract parse_contract(const std::string &text, const std::string &source)
{
  const Lines lines = split_lines(text);

  const int version = parse_number<int>(lines, "contract_version", source);
  if (version > CONTRACT_VERSION)
    throw std::runtime_error(source + ": its contract has version " + std::to_string(version) +
                             ", this plugin reads up to " + std::to_string(CONTRACT_VERSION) +
                             "; upgrade mindscaip and run 'mindscaip lammps build', or export the model again");
  require_value(lines, "energy_unit", "eV", source);
  require_value(lines, "length_unit", "Angstrom", source);
  require_value(lines, "edge_convention", EDGE_CONVENTION, source);

  Contract contract;
  std::istringstream symbols(require(lines, "elements", source));
  for (std::string symbol; symbols >> symbol;) {
    if (atomic_number(symbol) == 0)
      throw std::runtime_error(source + ": its contract names the element '" + symbol +
                               "', which does not exist; export the model again");
    contract.elements.push_back(symbol);
  }
  if (contract.elements.empty())
    throw std::runtime_error(source + ": its contract names no element; export the model again");

  contract.cutoff = parse_number<double>(lines, "cutoff", source);
  contract.list_cutoff = parse_number<double>(lines, "list_cutoff", source);
  if (!(contract.cutoff > 0.0) || !(contract.list_cutoff >= contract.cutoff) || !std::isfinite(contract.list_cutoff))
    throw std::runtime_error(source + ": its contract has cutoff = " + require(lines, "cutoff", source) +
                             " and list_cutoff = " + require(lines, "list_cutoff", source) +
                             ", which are no usable distances; export the model again");
  contract.conservative = parse_bool(lines, "conservative", source);
  contract.smooth = parse_bool(lines, "smooth", source);
  contract.num_layers = parse_number<int>(lines, "num_layers", source);
  contract.ranking = require(lines, "ranking", source);
  if (lines.count("staged") > 0) contract.staged = parse_bool(lines, "staged", source);    // added later
  contract.dtype = require(lines, "dtype", source);
  contract.mindscaip_version = require(lines, "mindscaip_version", source);
  contract.torch_version = require(lines, "torch_version", source);
  return contract;
}

}    // namespace mindscaip
