"""What the branches have in common that change the scores of a branch before them."""

from __future__ import annotations

from typing import Any

from defcn_ext.structures import Points
from detectron2.config import CfgNode

from .base import Branch
from .registry import branch_class


class StandingBranch(Branch):
    """A branch whose predictions are those of its base, at the base's points, with other scores.

    Args:
        args, options: those of `Branch`.
    """

    reads_base = True

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._base: list[Branch] = []  # in a list, so as not to be a part of this one

    @classmethod
    def points_of_cell(cls, cfg: CfgNode, name: str) -> int:
        base = cls.leans_on(cfg, name)["base"]
        (name,) = (other for other in cfg.MODEL.DEFCN.BRANCHES if other.lower() == base)
        node = cfg.MODEL.DEFCN[name]
        return branch_class(f"MODEL.DEFCN.{name}.TYPE", node.TYPE).kind(node).points_of_cell(cfg, name)

    def stand_on(self, base: Branch) -> None:
        if not base.predicts:
            raise ValueError(f"BASE: {self.base.upper()} predicts nothing; name a branch that does")
        super().stand_on(base)
        self._base = [base]

    def places(self, points: Points) -> Points:
        """Where the base predicts."""
        return self._base[0].places(points) if self._base else points
