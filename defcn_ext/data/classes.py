"""What an index of a class means: classes are matched by their names, over all data sets of a run and its checkpoint.

Every data set numbers its classes by the ids of its own file, and two exports of one project need not agree on them.
The order of the model's outputs is DATASETS.CLASSES, or where that is empty the order of the first training set.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from defcn_ext.checkpoint import classes_of
from defcn_ext.config import UserError
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)

KEY = "DATASETS.CLASSES"
SHOWN = 20  # names of a list that an error tells


def classes_of_set(name: str) -> list[str]:
    """The names of a data set's classes in its own order; it is loaded if it does not say otherwise. [] if unknown.

    Raises:
        UserError: two of them have the same name.
    """
    if not MetadataCatalog.get(name).get("thing_classes"):
        DatasetCatalog.get(name)
    classes = [str(x) for x in MetadataCatalog.get(name).get("thing_classes") or ()]
    repeated = [x for x, count in Counter(classes).items() if count > 1]
    if repeated:
        raise UserError(
            f"{name}: several categories are called {repeated[0]!r}: rename them, or register the json with "
            "DATASETS.REGISTER, which tells them apart by their ids"
        )
    return classes


def model_classes(cfg: CfgNode) -> list[str]:
    """The names of the model's classes in the order of its outputs; [] where neither config nor data set can say."""
    return _given(cfg)[0]


def _given(cfg: CfgNode) -> tuple[list[str], str]:
    """The names, and who says so."""
    if cfg.DATASETS.CLASSES:
        return list(cfg.DATASETS.CLASSES), KEY
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        try:
            classes = classes_of_set(name)
        except (OSError, KeyError):  # an evaluation needs no training data
            continue
        if classes:
            return classes, name
    return [], ""


def class_order(cfg: CfgNode, name: str) -> list[int]:
    """For each class of the model, its index in a data set; [] where one of them does not name its classes.

    Raises:
        UserError: the names are not the same.
    """
    (classes, source), own = _given(cfg), classes_of_set(name)
    if not classes or not own:
        return []
    check_same(own, classes, name, source)
    return [own.index(x) for x in classes]


def category_ids(cfg: CfgNode) -> tuple[int, ...]:
    """The ids of the model's classes in the first test set, by the index of the class; () where nothing tells them."""
    for name in cfg.DATASETS.TEST[:1]:
        try:
            order = class_order(cfg, name)
        except (OSError, KeyError, UserError):  # of a set that is not here, or of other classes
            continue
        ids = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id") or {}
        by_index = {index: number for number, index in ids.items()}
        if order and all(index in by_index for index in order):
            return tuple(by_index[index] for index in order)
    return ()


def check_same(classes: Sequence[str], expected: Sequence[str], whose: str, source: str) -> None:
    """
    Raises:
        UserError: the two lists do not hold the same names.
    """
    if sorted(classes) == sorted(expected):
        return
    lacking, more = [x for x in expected if x not in classes], [x for x in classes if x not in expected]
    fix = f"rename them in the json, or set {KEY} to the names of the model's outputs"
    if not more:
        fix = "add the lacking ones to its categories, though no object has them"
    raise UserError(
        f"{whose} has the classes {_listed(classes)}; {source} has {_listed(expected)}"
        + (f"; lacking: {_listed(lacking)}" if lacking else "")
        + (f"; unknown: {_listed(more)}" if more else "")
        + f". Classes are matched by name: {fix}"
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f", ... {len(names)} in all" if len(names) > SHOWN else "")


def weights_of_run(cfg: CfgNode, resume: bool) -> str:
    """The checkpoint that a run starts from, if it lies on this machine, else ""."""
    pointer = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if resume and os.path.isfile(pointer):
        with open(pointer, encoding="utf-8", errors="replace") as file:
            path = os.path.join(cfg.OUTPUT_DIR, file.read().strip())
    else:
        path = cfg.MODEL.WEIGHTS
    return path if os.path.isfile(path) else ""


def with_classes(cfg: CfgNode, names: Iterable[str], weights: str = "", *, keep: bool = False) -> CfgNode:
    """The config with DATASETS.CLASSES filled in, from the checkpoint if it names its classes, else from the data.

    Args:
        names: the data sets that are used, whose classes must have the same names.
        weights: the checkpoint that the model starts from, or "".
        keep: its classes are the model's, as in an evaluation or a resumed run; else they give the order where they are
            the classes of the data, and are replaced by those where they are not (fine-tuning).

    Raises:
        UserError: data sets, or data sets and a checkpoint that is to be kept, have classes of other names; or
            DATASETS.CLASSES has those of the checkpoint in another order.
    """
    remembered = _remembered(weights) if weights else None
    by_hand = list(cfg.DATASETS.CLASSES)
    if remembered and by_hand and by_hand != remembered and sorted(by_hand) == sorted(remembered):
        raise UserError(f"{KEY}: {weights} has these classes in another order ({_listed(remembered)}): leave it empty")
    if by_hand:
        remembered = None  # whoever names the model's outputs knows better than the file
    classes, source = (remembered, weights) if remembered and keep else _given(cfg)
    if remembered and not keep:
        if sorted(remembered) == sorted(classes):
            classes = remembered
        else:
            logger.info("%s: its classes (%s) give way to %s", weights, _listed(remembered), _listed(classes))
    for name in dict.fromkeys(names):
        own = classes_of_set(name)
        if own and classes:
            check_same(own, classes, name, source)
    settled = cfg.clone()
    settled.defrost()
    settled.DATASETS.CLASSES = tuple(classes)
    if cfg.is_frozen():
        settled.freeze()
    return settled


def _remembered(weights: str) -> list[str] | None:
    try:
        return classes_of(weights)
    except UserError:  # told in full by those who need more than names from it
        return None
