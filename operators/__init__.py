"""pymoo operators on genomes: seeded sampling, layer-wise crossover, ordinal mutation and repair.

All of them use integer arithmetic and integer random draws only, so that a search is bit-reproducible.
"""

from emomc.operators.merging import AdditiveFront, additive_front
from emomc.operators.sampling import lagrangian_seeds, uniform_ladder
from emomc.operators.variation import CanonicalRepair, LayerwiseCrossover, OrdinalMutation, genome_operators

__all__ = [
    "AdditiveFront",
    "CanonicalRepair",
    "LayerwiseCrossover",
    "OrdinalMutation",
    "additive_front",
    "genome_operators",
    "lagrangian_seeds",
    "uniform_ladder",
]
