from .anchor import AnchorBranch
from .auxiliary import AuxiliaryBranch
from .base import Branch
from .build import build_branches, known_branches
from .dual import DualWeightingBranch
from .peaks import PeaksBranch
from .point import PointBranch
from .registry import BRANCH_REGISTRY, branch_node
from .selector import SelectorBranch
from .towers import build_towers
from .weighted import WeightedBranch

__all__ = [
    "BRANCH_REGISTRY",
    "AnchorBranch",
    "AuxiliaryBranch",
    "Branch",
    "DualWeightingBranch",
    "PeaksBranch",
    "PointBranch",
    "SelectorBranch",
    "WeightedBranch",
    "branch_node",
    "build_branches",
    "build_towers",
    "known_branches",
]
