from .anchor import AnchorBranch
from .auxiliary import AuxiliaryBranch
from .base import Branch
from .build import build_branches, build_towers, known_branches
from .point import PointBranch
from .weighted import DualWeightingBranch, WeightedBranch

__all__ = [
    "AnchorBranch",
    "AuxiliaryBranch",
    "Branch",
    "DualWeightingBranch",
    "PointBranch",
    "WeightedBranch",
    "build_branches",
    "build_towers",
    "known_branches",
]
