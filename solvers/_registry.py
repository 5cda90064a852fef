"""The table of solvers."""

from core.registry import Registry

# Facts of a solver. stage: that of the script whose --loss_name names it.
SOLVERS = Registry("solver")
