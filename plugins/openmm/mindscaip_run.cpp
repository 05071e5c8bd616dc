// Reads a serialised System with a mindscaip force and a State, integrates, and writes the last State: no Python.
//
//   mindscaip_run system.xml state.xml last.xml STEPS TIMESTEP_FS [PLATFORM [EVERY]]
//
// Prints one line per EVERY steps: step, time in ps, potential, kinetic and total energy in kJ/mol. Velocity Verlet, so
// that positions and velocities belong to one instant. The platform is CPU unless named.

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>

#include "OpenMM.h"
#include "openmm/serialization/XmlSerializer.h"

namespace {

template <class T> std::unique_ptr<T> read(const std::string &path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return std::unique_ptr<T>(OpenMM::XmlSerializer::deserialize<T>(file));
}

int number(const char *text, const char *what) {
  char *end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < 0 || value > 2000000000)
    throw std::runtime_error(std::string(what) + " is '" + text + "'; give a whole number");
  return static_cast<int>(value);
}

void report(OpenMM::Context &context, int step) {
  const OpenMM::State state = context.getState(OpenMM::State::Energy);
  const double potential = state.getPotentialEnergy(), kinetic = state.getKineticEnergy();
  std::printf("%d %.6f %.10f %.10f %.10f\n", step, state.getTime(), potential, kinetic, potential + kinetic);
  std::fflush(stdout);
}

// What the scripted module says, without TorchScript's listing of the code around it.
std::string sentence(const std::string &text) {
  const std::string marker = "mindscaip: ";
  const std::size_t at = text.rfind(marker);
  if (at == std::string::npos) return text;
  const std::size_t begin = at + marker.size();
  return text.substr(begin, text.find('\n', begin) - begin);
}

void run(int argc, char **argv) {
  if (argc < 6 || argc > 8)
    throw std::runtime_error(
        "usage: mindscaip_run system.xml state.xml last.xml STEPS TIMESTEP_FS [PLATFORM [EVERY]]");
  const int steps = number(argv[4], "STEPS");
  const double timestep_fs = std::atof(argv[5]);
  if (!(timestep_fs > 0.0)) throw std::runtime_error(std::string("TIMESTEP_FS is '") + argv[5] + "'; give femtoseconds");
  const std::string platform = argc > 6 ? argv[6] : "CPU";
  const int every = argc > 7 ? number(argv[7], "EVERY") : (steps > 10 ? steps / 10 : 1);
  if (every < 1) throw std::runtime_error("EVERY is 0; give at least 1");

  const char *plugins = std::getenv("OPENMM_PLUGIN_DIR");
  OpenMM::Platform::loadPluginsFromDirectory(plugins != nullptr ? plugins : OPENMM_PLUGINS);
  const auto system = read<OpenMM::System>(argv[1]);
  const auto start = read<OpenMM::State>(argv[2]);

  OpenMM::CustomIntegrator integrator(timestep_fs / 1000.0);
  integrator.addUpdateContextState();
  integrator.addComputePerDof("v", "v + 0.5*dt*f/m");
  integrator.addComputePerDof("x", "x + dt*v");
  integrator.addComputePerDof("v", "v + 0.5*dt*f/m");
  OpenMM::Context context(*system, integrator, OpenMM::Platform::getPlatformByName(platform));
  // Not setState: parameters of the State may belong to forces that an integrator of its own brought.
  OpenMM::Vec3 a, b, c;
  start->getPeriodicBoxVectors(a, b, c);
  context.setPeriodicBoxVectors(a, b, c);
  context.setPositions(start->getPositions());
  if ((start->getDataTypes() & OpenMM::State::Velocities) != 0) context.setVelocities(start->getVelocities());
  context.setTime(start->getTime());

  int done = 0;
  report(context, done);
  while (done < steps) {
    const int next = every < steps - done ? every : steps - done;
    integrator.step(next);
    done += next;
    report(context, done);
  }
  const OpenMM::State last = context.getState(OpenMM::State::Positions | OpenMM::State::Velocities |
                                              OpenMM::State::Forces | OpenMM::State::Energy);
  std::ofstream file(argv[3]);
  OpenMM::XmlSerializer::serialize<OpenMM::State>(&last, "State", file);
  if (!file.flush()) throw std::runtime_error(std::string(argv[3]) + ": cannot be written");
}

}  // namespace

int main(int argc, char **argv) {
  try {
    run(argc, argv);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", sentence(error.what()).c_str());
    return 1;
  }
  return 0;
}
