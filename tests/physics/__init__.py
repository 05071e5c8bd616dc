"""The physics suite: what every smooth, conservative potential has to fulfil, whoever wrote it.

``python -m tests.physics MODEL.pt`` runs it on a file; :mod:`tests.physics.potentials` has the interface that any other
potential can be given. Each check is a function that returns figures and the bound that each has to keep.
"""
