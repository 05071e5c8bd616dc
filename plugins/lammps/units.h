// Conversion factors of the plugin; mindscaip/units.py is their Python home, and a test compares the two.

#ifndef MINDSCAIP_UNITS_H
#define MINDSCAIP_UNITS_H

namespace mindscaip {

// The model speaks eV and Angstrom. LAMMPS "units metal" does too; "units real" wants kcal/mol and Angstrom.
constexpr double EV_TO_KCAL_PER_MOL = 23.060548012069493;

}    // namespace mindscaip

#endif
