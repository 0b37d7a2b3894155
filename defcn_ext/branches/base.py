"""What all branches have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from defcn_ext.assignment import Rule, build_rule
from defcn_ext.layers.towers import SharedHead
from defcn_ext.structures import DensePredictions, HeadFeatures, Objects, Pairs, Points, ScoreView
from detectron2.config import CfgNode, configurable

from .towers import build_towers


class Branch(nn.Module):
    """A predictor, an assignment rule and a loss.

    A subclass gives `forward(points, features, base) -> DensePredictions`, and `terms(points, predictions, objects,
    pairs)`, a dict of scalars by short names such as "cls" and "box". One with options of its own declares their keys
    in `add_config`, and reads them in `from_config`; its `__init__` is `@configurable`.

    Args:
        rule: label assignment, or the text of one, as in yaml.
        loss_weight: multiplies all losses of the branch (DATE's lambda); one number, or (start, end) for a weight that
            goes from one to the other over the training in a straight line.
        towers: towers of the branch's own, or None to predict from the features that it is given.
        features_of: lower-case name of the branch from whose features it predicts; "" for the towers of the model.
        base: lower-case name of the branch whose predictions it reads; "" for none.
        detach: whether its losses stop at the features that it is given.

    Attributes:
        trains: whether it has losses; a training asks one that has none only where another branch reads it.
        predicts: whether the branch can be the one that is used at inference.
        reads_features: whether `forward` looks at features. The nodes of those that do have TOWERS and DETACH.
        reads_base: whether `forward` looks at the predictions of another branch. The nodes of those that do have BASE.
        weighted: whether the losses use the weights of pairs.
        dual: whether they give the negative weights an importance s^g (`Pairs.focal_negative`; DW).
        per_cell: number of points of each cell, as the branch sees them.
        draws_aside: whether its first weights come from random numbers of their own, so that those of all that is
            built after it are as without it.
        stands_apart: whether the gradient of its losses ends in its own parameters; it is clipped for itself then.

    Raises:
        ValueError: the rule does not give the weights that the losses use, or gives some that they would ignore; or a
            weight of the losses is no weight.
    """

    trains = True
    predicts = True
    reads_features = True
    reads_base = False
    weighted = False
    dual = False
    draws_aside = False
    per_cell = 1

    @configurable
    def __init__(
        self,
        rule: Rule | str,
        *,
        loss_weight: float | Sequence[float] = 1.0,
        towers: SharedHead | None = None,
        features_of: str = "",
        base: str = "",
        detach: bool = False,
    ):
        super().__init__()
        self.rule = build_rule(rule) if isinstance(rule, str) else rule
        self._check_weights(self.rule)
        self.loss_weight, (self._start, self._end) = loss_weight, _start_and_end(loss_weight)
        self.towers = towers
        self.features_of, self.base, self.detach = features_of, base, detach

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        """Declares the keys of the branch's node, with their defaults."""
        # Label assignment: NAME(option=value, ...); `defcn_ext.assignment.rules()` lists the names.
        node.RULE = "POTO(alpha=0.8, prior=center, radius=1.5, select=matching)"
        # Multiplies all losses of the branch (DATE's lambda): one number, or (start, end), a straight line over the
        # training.
        node.LOSS_WEIGHT = 1.0
        if cls.reads_features:
            # What the branch predicts from: "shared", the towers of the model; "own", towers of its own; or the name
            # of a branch before it, to read what that one reads. "" for "shared", and for all but the first branch
            # "own" where SHARE_TOWERS is off.
            node.TOWERS = ""
            # Stop the gradient of the branch's losses at these features (with "own": at the pyramid).
            node.DETACH = False
        if cls.reads_base:
            # The branch before it whose predictions it reads; "" for the first.
            node.BASE = ""

    @classmethod
    def kind(cls, node: CfgNode) -> type[Branch]:
        """The class that builds the node; another one only where a key of an older config asks for it."""
        return cls

    @classmethod
    def points_of_cell(cls, cfg: CfgNode, name: str) -> int:
        """The `per_cell` of the branch `name` of the config, before it is built."""
        return cls.per_cell

    @classmethod
    def leans_on(cls, cfg: CfgNode, name: str) -> dict[str, str]:
        """The branches that the branch `name` of the config needs: "features_of" and "base", lower-case or ""."""
        options, node = cfg.MODEL.DEFCN, cfg.MODEL.DEFCN[name]
        towers = node.TOWERS if cls.reads_features else ""
        base = (node.BASE or options.BRANCHES[0]) if cls.reads_base else ""
        return {"features_of": "" if towers in ("", "shared", "own") else towers.lower(), "base": base.lower()}

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str, in_channels: int) -> dict[str, Any]:
        """Reads the node `MODEL.DEFCN.<name>`; the arguments of the constructor."""
        options, node = cfg.MODEL.DEFCN, cfg.MODEL.DEFCN[name]
        try:
            rule = build_rule(node.RULE)
        except ValueError as error:
            raise ValueError(f"MODEL.DEFCN.{name}.RULE: {error}") from None
        arguments = {"rule": rule, "loss_weight": node.LOSS_WEIGHT, **cls.leans_on(cfg, name)}
        if cls.reads_features:
            own = node.TOWERS == "own"
            if node.TOWERS == "" and not arguments["features_of"]:
                own = not options.SHARE_TOWERS and name != options.BRANCHES[0]
            arguments["towers"] = build_towers(cfg, in_channels, level_scales=False) if own else None
            arguments["detach"] = node.DETACH
        return arguments

    def stand_on(self, base: Branch) -> None:
        """Learns about the branch whose predictions it reads.

        Raises:
            ValueError: it cannot stand on that one.
        """
        if base.per_cell != self.per_cell:
            raise ValueError(
                f"MODEL.DEFCN.BRANCHES: a branch wants one point a cell, and {self.base.upper()} has {base.per_cell}; "
                "leave it out"
            )

    @property
    def stands_apart(self) -> bool:
        return self.detach and not self.reads_base

    def see(self, features: HeadFeatures) -> HeadFeatures:
        """What the branch predicts from, given the features of the model's towers or of another branch."""
        features = features.detach() if self.detach else features
        if self.towers is None:
            return features
        own = self.towers(features.pyramid)
        return replace(features, cls=own.cls, box=own.box)

    def places(self, points: Points) -> Points:
        """Where the branch predicts: at the points, unless it has anchors."""
        return points

    def assign(self, points: Points, predictions: DensePredictions, objects: Objects, progress: float = 0.0) -> Pairs:
        """Which points stand for which objects, for the whole batch, on detached float32 predictions.

        `progress` is the share of the training that is over.
        """
        detached = predictions.detach()
        return self.rule(
            self.places(points),
            ScoreView(detached),
            detached.boxes.flatten(0, 1),
            objects.boxes,
            objects.classes,
            objects.image,
            progress=progress,
            image_sizes=objects.image_sizes,
        )

    def losses(
        self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs, progress: float = 0.0
    ) -> dict[str, Tensor]:
        """The terms of the branch's loss by short names, normalised and weighted, also by the loss weight."""
        weight = self._start + (self._end - self._start) * progress
        return {name: weight * value for name, value in self.terms(points, predictions, objects, pairs).items()}

    def terms(self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> dict[str, Tensor]:
        """The terms of the loss by short names, normalised and weighted among each other."""
        raise NotImplementedError

    def final_scores(self, scores: Tensor, centerness: Tensor) -> Tensor:
        """Joins class scores with centerness logits of the same shape."""
        return scores * centerness.float().sigmoid()

    def try_rule(self) -> None:
        """Lets the rule assign one object on a level of four cells, so that one that does not suit the branch says so
        now, whether it does so early or late in the training.

        Raises:
            ValueError: it does not.
        """
        with torch.device("cpu"):  # the model itself may be built without numbers, on the meta device
            places = self.places(Points.from_sizes([(2, 2)], [8]))
            box = torch.tensor([[2.0, 2.0, 14.0, 14.0]])
            scores, boxes = torch.full((len(places), 1), 0.5), box.expand(len(places), 4)
            for progress in (0.0, 1.0):
                self.check_pairs(self.rule(places, scores, boxes, box, torch.tensor([0]), progress=progress))

    def check_pairs(self, pairs: Pairs) -> None:
        """
        Raises:
            ValueError: the rule gives pairs that the losses cannot use.
        """

    def _check_weights(self, rule: Rule) -> None:
        dual = getattr(rule.weighting, "leaves_importance", False)
        if rule.weighting is not None and not self.weighted:
            fitting = "dual" if dual else "weighted"
            raise ValueError(f"TYPE: its losses are hard, and the RULE weights its pairs; set TYPE to {fitting!r}")
        if rule.weighting is None and self.weighted:
            raise ValueError("TYPE: its losses want weights, and the RULE gives none; set TYPE to 'point'")
        if self.dual and not dual:
            raise ValueError(
                "TYPE: 'dual' takes the negative weight for a probability, and the RULE gives soft labels; set TYPE to "
                "'weighted'"
            )
        if dual and not self.dual:
            raise ValueError(
                "TYPE: 'weighted' lacks the importance that the RULE leaves to the loss; set TYPE to 'dual'"
            )


def _start_and_end(weight: float | Sequence[float]) -> tuple[float, float]:
    pair = tuple(weight) if isinstance(weight, Sequence) else (weight, weight)
    if len(pair) != 2 or not all(isinstance(x, (int, float)) and 0 <= x < float("inf") for x in pair):
        raise ValueError(f"LOSS_WEIGHT: give one number or (start, end), none negative, got {weight!r}")
    return float(pair[0]), float(pair[1])


def check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    """
    Raises:
        ValueError: the value is none of those known.
    """
    if value not in known:
        raise ValueError(f"{key}: unknown value {value!r}; known: {', '.join(map(repr, known))}")
