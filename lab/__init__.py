"""Builds and runs the machines that tests and the demo convert. ``recipe.py`` says what a machine is, ``build.py`` makes its
disk, ``machine.py`` runs it, ``writer.py`` is the oracle of consistency, ``demo.py`` puts them together."""
