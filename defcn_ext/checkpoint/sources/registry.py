"""The code bases whose weights can be read: what a source of weights has to say, and which one a file is of."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from defcn_ext.config import UserError
from detectron2.config import CfgNode

# A pattern that must match a whole name, and the new name; "" drops the entry. In new names `first` and `second` stand
# for the branches of `MODEL.DEFCN.BRANCHES` (`branches.one_to_one` and so on). Sequentials count conv, norm, ReLU: conv
# n of a tower is entry 3n, its norm 3n + 1.
Rule = tuple[str, str | Callable[[re.Match[str]], str]]

OPTIONS = "MODEL.DEFCN."
BOTTOM_UP = "backbone.bottom_up."


@dataclass
class Renamed:
    """The entries under their new names."""

    state: dict[str, Tensor] = field(default_factory=dict)
    # New name -> name in the file.
    origin: dict[str, str] = field(default_factory=dict)
    # Entries that are not needed, and those that no rule knows.
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


@dataclass
class Detected:
    """A model: its name, its file in `configs/`, the keys that this file lacks, and what the names leave open.

    `preprocessing` holds the keys of the input, which belong to the weights whatever config they are loaded into.
    """

    title: str
    config: str
    preprocessing: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Source:
    """A code base that writes weights. One that is registered is known to `convert`; see checkpoint/README.md.

    Attributes:
        name: as in `--from`.
        mark: pattern of the whole name of an entry that only this code base's detectors have.
        refused: pattern of an entry -> what the weights are, where they cannot be taken over.
        one_class: whether a model of one class is taken for CrowdHuman.
    """

    name: str
    mark: str
    refused: Mapping[str, str] = {}
    one_class = False

    def rules(self, state: Mapping[str, Tensor]) -> list[Rule]:
        """From the file's names to ours; the first pattern that matches counts."""
        raise NotImplementedError

    def model(self, path: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
        """Which model these are, beyond what the shapes of ResNet, pyramid and towers tell.

        Args:
            extras: what else is in the file.

        Raises:
            UserError: none that this repository has.
        """
        raise NotImplementedError

    def adapt(self, state: dict[str, Tensor], renamed: Renamed, cfg: CfgNode, branch: str, notes: list[str]) -> None:
        """Changes values where the two code bases mean different ones, such as the order of channels.

        Args:
            state: under the final names; changed in place.
            cfg: of the model that they are for.
            branch: node of the branch that predicts; its entries begin with `branches.<branch in lower case>.`.
            notes: what the user should know; added to.
        """


SOURCES: dict[str, Source] = {}


def register_source(kind: type[Source]) -> type[Source]:
    """Makes a source known. Of one name the later counts."""
    SOURCES[kind.name] = kind()
    return kind


# Keys of other detectors, and what they are.
FOREIGN = {
    r"(?:rpn_head|roi_head|roi_heads|rpn|proposal_generator\.rpn_head)\..+": "a detector of another kind: two stages",
    r"backbone\.(?:bottom_up\.)?(?:patch_embed|stages|layers)\..+": "a backbone other than a ResNet",
    r"(?:transformer|class_embed)\..+": "a detector of another kind: DETR's",
    r"proposal_generator\.(?!fcos_head\.).+": "a detector of another kind",
}
READY = {
    r"(?:backbone\.bottom_up\.)?stem\.conv1\.(?:weight|norm\..+)": "Detectron2's",
    r"(?:res_)?conv1(?:_bn)?_[ws]": "Caffe2's",
}


def which_source(path: str, keys: Collection[str]) -> str:
    """The name of the source that writes such names; "torchvision" also for classifiers, of timm as well, whose names
    are the same, and "defcn_ext" for this project's own.

    Raises:
        UserError: none known; says what it is where that is known.
    """

    def any_has(pattern: str) -> bool:
        return any(re.fullmatch(pattern, key) for key in keys)

    if any_has(r"branches\.\w+\..+"):
        return "defcn_ext"
    for pattern, what in (*FOREIGN.items(), *(x for s in SOURCES.values() for x in s.refused.items())):
        if any_has(pattern):
            raise UserError(f"{path}: the weights of {what}")
    for source in SOURCES.values():
        if any_has(source.mark):
            return source.name
    if is_classifier(keys):
        return "torchvision"
    for pattern, what in READY.items():
        if any_has(pattern):
            raise UserError(f"{path}: has {what} names already; give it to MODEL.WEIGHTS as it is")
    some = ", ".join(sorted(keys)[:3])
    raise UserError(f"{path}: weights of no code base known here (they are: {some} ...)")


def is_classifier(keys: Collection[str]) -> bool:
    """Whether the names are those of torchvision's and timm's ResNets."""
    return "layer1.0.conv1.weight" in keys


def rename(rules: list[Rule], state: Mapping[str, Tensor]) -> Renamed:
    """Gives all entries our names.

    Raises:
        UserError: two entries of the file would get one name.
    """
    out = Renamed()
    compiled = [(re.compile(pattern), target) for pattern, target in rules]
    for key, value in state.items():
        match, target = next(((m, t) for pattern, t in compiled if (m := pattern.fullmatch(key))), (None, ""))
        if match is None:
            out.unknown.append(key)
            continue
        name = target(match) if callable(target) else match.expand(target)
        if not name:
            out.dropped.append(key)
        elif name in out.state:
            raise UserError(f"{key} and {out.origin[name]} would both become {name}")
        else:
            out.state[name], out.origin[name] = value, key
    return out
