// The entry that LAMMPS calls when it loads the plugin: registers the pair style, or says what does not fit.

#include "pair_mindscaip.h"
#include "plugin_interface.h"

#include "error.h"
#include "force.h"
#include "lammps.h"
#include "lmptype.h"

#include <dlfcn.h>
#include <mpi.h>

#include <cstring>
#include <string>

#ifndef MINDSCAIP_LAMMPS_VERSION
#error "compile with -DMINDSCAIP_LAMMPS_VERSION=YYYYMMDD, the version of the LAMMPS headers (mindscaip lammps build does)"
#endif

using namespace LAMMPS_NS;

namespace {

const char BUILD_HINT[] = "; build the plugin for this LAMMPS: 'mindscaip lammps build', or CMake for your own LAMMPS";

// Empty when the plugin fits this LAMMPS. LAMMPS's C interface is asked first: unlike its classes it is stable.
std::string misfit(LAMMPS *lmp)
{
  const auto lammps_version = reinterpret_cast<int (*)(void *)>(dlsym(RTLD_DEFAULT, "lammps_version"));
  const int version = lammps_version != nullptr ? lammps_version(lmp) : lmp->num_ver;
  if (version != MINDSCAIP_LAMMPS_VERSION)
    return "pair_style mindscaip was built for LAMMPS " + std::to_string(MINDSCAIP_LAMMPS_VERSION) + ", this is LAMMPS " +
           std::to_string(version) + BUILD_HINT;

  const auto setting = reinterpret_cast<int (*)(void *, const char *)>(dlsym(RTLD_DEFAULT, "lammps_extract_setting"));
  if (setting != nullptr) {
    const struct {
      const char *name;
      size_t size;
    } integers[] = {{"bigint", sizeof(bigint)}, {"tagint", sizeof(tagint)}, {"imageint", sizeof(imageint)}};
    for (const auto &integer : integers)
      if (setting(lmp, integer.name) != static_cast<int>(integer.size))
        return "pair_style mindscaip was built for a LAMMPS whose " + std::string(integer.name) + " has " +
               std::to_string(integer.size) + " bytes, this one has " + std::to_string(setting(lmp, integer.name)) +
               " (LAMMPS_SMALLBIG against LAMMPS_BIGBIG)" + BUILD_HINT;
  }

  // Stubs and a real MPI disagree on the type of a communicator, so neither may meet the other.
#if defined(MPI_STUBS)
  const bool built_with_mpi = false;
#else
  const bool built_with_mpi = true;
#endif
  const auto has_mpi = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "lammps_config_has_mpi_support"));
  if (has_mpi != nullptr && (has_mpi() != 0) != built_with_mpi)
    return std::string("pair_style mindscaip was built ") +
           (built_with_mpi ? "with MPI, this LAMMPS has none (its STUBS)"
                           : "without MPI (LAMMPS's STUBS), this LAMMPS has it") +
           BUILD_HINT;

#if defined(OPEN_MPI)
  const std::string family = "Open MPI";
#elif defined(MPICH_VERSION)
  const std::string family = "MPICH";
#else
  const std::string family;    // another MPI, or none: nothing to compare
#endif
  const auto library_version = reinterpret_cast<int (*)(char *, int *)>(dlsym(RTLD_DEFAULT, "MPI_Get_library_version"));
  if (!family.empty() && library_version != nullptr) {
    std::string name(8192, '\0');
    int length = 0;
    library_version(&name[0], &length);
    const bool is_open_mpi = name.find("Open MPI") != std::string::npos;
    if (is_open_mpi != (family == "Open MPI"))
      return "pair_style mindscaip was built with " + family + ", this LAMMPS runs with " + name.substr(0, name.find(',')) +
             BUILD_HINT;
  }
  return "";
}

Pair *create_pair(LAMMPS *lmp)
{
  // A misfit is refused here and not at load time, so that runs without this pair style are left alone.
  const std::string reason = misfit(lmp);
  if (!reason.empty()) lmp->error->all(FLERR, reason);
  return new PairMindscaip(lmp);
}

}    // namespace

extern "C" void lammpsplugin_init(void *lammps, void *handle, void *register_function)
{
  auto *lmp = static_cast<LAMMPS *>(lammps);
  PluginDescription plugin;
  std::memset(&plugin, 0, sizeof(plugin));
  plugin.version = lmp->version;    // only compared and printed; misfit() is the real check
  plugin.style = "pair";
  plugin.name = "mindscaip";
  plugin.info = "pair_style mindscaip (exported MinDScAIP models)";
  plugin.author = "the mindscaip developers";
  plugin.creator.v1 = reinterpret_cast<void *(*) (void *)>(&create_pair);
  plugin.handle = handle;
  reinterpret_cast<PluginRegister>(register_function)(&plugin, lammps);

  // LAMMPS counts plugins per process but keeps styles per instance: it ignores a second registration, which would
  // leave a second instance in the same process without the style.
  if (misfit(lmp).empty()) (*lmp->force->pair_map)["mindscaip"] = &create_pair;
}
