from .auxiliary import AuxiliaryBranch
from .base import Branch
from .build import build_branches, known_branches
from .point import PointBranch

__all__ = ["AuxiliaryBranch", "Branch", "PointBranch", "build_branches", "known_branches"]
