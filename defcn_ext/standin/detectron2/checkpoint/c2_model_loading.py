"""Weights from elsewhere: Caffe2 blob names to ours, and finding a home for names that lack a prefix."""

import logging
import re
from typing import Any

import torch
from tabulate import tabulate

# Applied to a whole name in this order, after "_" became ".".
C2_RULES = [
    (r"^pred\.(w|b)$", r"linear.\1"),
    (r"^res\.conv1\.bn\.", "conv1.bn."),
    (r"^conv1\.", "stem.conv1."),
    (r"\.branch1(?=\.)", ".shortcut"),
    (r"\.branch2a(?=\.)", ".conv1"),
    (r"\.branch2b(?=\.)", ".conv2"),
    (r"\.branch2c(?=\.)", ".conv3"),
    (r"^fpn\.inner\.res(\d)\.\d+\.sum(\.lateral)?(?=\.)", r"fpn_lateral\1"),
    (r"^fpn\.res(\d)\.\d+\.sum(?=\.)", r"fpn_output\1"),
    (r"\b[bg]n\.(s|gamma)$", "norm.weight"),
    (r"\b[bg]n\.(b|beta)$", "norm.bias"),
    (r"\b[bg]n\.(rm|running\.mean)$", "norm.running_mean"),
    (r"\b[bg]n\.(riv|running\.var)$", "norm.running_var"),
    (r"\.w$", ".weight"),
    (r"\.b$", ".bias"),
]


def convert_c2_detectron_names(weights: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Renames Caffe2 blobs of a ResNet with FPN; the values stay as they are.

    Returns:
        the weights under their new names, and new name -> blob name.
    """
    logging.getLogger(__name__).info("Renaming Caffe2 weights ......")
    original = {_rename(name): name for name in weights}
    assert len(original) == len(weights), "two blobs were given the same name"
    return {new: weights[old] for new, old in original.items()}, original


def align_and_update_state_dicts(
    model_state_dict: dict[str, torch.Tensor], ckpt_state_dict: dict[str, torch.Tensor], c2_conversion: bool = True
) -> dict[str, torch.Tensor]:
    """Gives checkpoint entries the model's names.

    A model entry takes the longest checkpoint name that equals it, or is its end at a dot:
    `backbone.stem.conv1.weight` takes `stem.conv1.weight`. Entries of other shapes are skipped with a warning.

    Returns:
        model name -> tensor for all that match, and the rest of the checkpoint under its own names.

    Raises:
        ValueError: a checkpoint entry fits two entries of the model.
    """
    logger = logging.getLogger(__name__)
    original = {name: name for name in ckpt_state_dict}
    if c2_conversion:
        ckpt_state_dict, original = convert_c2_detectron_names(ckpt_state_dict)
    matches: dict[str, str] = {}  # checkpoint name -> model name
    for model_name in sorted(model_state_dict):
        name = _longest_suffix(model_name, ckpt_state_dict)
        if name is None:
            continue
        here, there = tuple(model_state_dict[model_name].shape), tuple(ckpt_state_dict[name].shape)
        if here != there:
            logger.warning(f"Not loading {original[name]}, {there}, into {model_name}, {here}: shapes differ")
        elif name in matches:
            raise ValueError(f"Checkpoint entry {original[name]} fits both {matches[name]} and {model_name}")
        else:
            matches[name] = model_name
    if matches:
        rows = [(model, original[name], tuple(ckpt_state_dict[name].shape)) for name, model in matches.items()]
        table = tabulate(rows, headers=["Names in Model", "Names in Checkpoint", "Shapes"], tablefmt="pipe")
        logger.info(
            f"Following weights matched with submodule {_common_prefix(list(matches.values())) or 'model'} - "
            f"Total num: {len(matches)}\n{table}"
        )
    else:
        logger.warning("No weights in checkpoint matched with model.")
    return {matches.get(name, original[name]): value for name, value in ckpt_state_dict.items()}


def _rename(blob: str) -> str:
    name = blob.replace("_", ".")
    for pattern, replacement in C2_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _longest_suffix(name: str, known: dict[str, Any]) -> str | None:
    parts = name.split(".")
    tails = (".".join(parts[start:]) for start in range(len(parts)))
    return next((tail for tail in tails if tail in known), None)


def _common_prefix(names: list[str]) -> str:
    """The leading parts, between dots, that all names share."""
    first, last = min(names).split("."), max(names).split(".")
    shared = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return ".".join(first[:shared])
