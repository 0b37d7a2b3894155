from .anchor import AnchorBranch
from .auxiliary import AuxiliaryBranch
from .base import Branch
from .build import build_branches, build_towers, known_branches
from .point import PointBranch

__all__ = [
    "AnchorBranch",
    "AuxiliaryBranch",
    "Branch",
    "PointBranch",
    "build_branches",
    "build_towers",
    "known_branches",
]
