"""The stand-in against the list of Detectron2's public names: what is there has the same shape, and what is not there
is left out on purpose."""

import functools
import importlib
import inspect
import itertools
import json
import re
from enum import Enum
from pydoc import locate

import pytest

import detectron2
from tests.conftest import FACTS

pytestmark = pytest.mark.skipif(
    "standin" not in detectron2.__file__, reason="an installed Detectron2 need not be compared with itself"
)

API = json.loads((FACTS / "api.json").read_text())

# Reason -> what is not provided: "name" in every module, "module.name" in one, or "Class.method".
LEFT_OUT = {
    "two-stage, semantic and panoptic models: this package builds dense one-stage detectors": """
        GeneralizedRCNN PanopticFPN ProposalNetwork SemanticSegmentor GeneralizedRCNNWithTTA DatasetMapperTTA
        SEM_SEG_HEADS_REGISTRY build_sem_seg_head PROPOSAL_GENERATOR_REGISTRY build_proposal_generator
        RPN_HEAD_REGISTRY build_rpn_head ROI_BOX_HEAD_REGISTRY ROI_HEADS_REGISTRY ROI_KEYPOINT_HEAD_REGISTRY
        ROI_MASK_HEAD_REGISTRY ROIHeads StandardROIHeads BaseMaskRCNNHead BaseKeypointRCNNHead FastRCNNOutputLayers
        build_box_head build_keypoint_head build_mask_head build_roi_heads
        heatmaps_to_keypoints Keypoints.to_heatmap BitMasks.from_roi_masks Visualizer.draw_panoptic_seg
        Visualizer.draw_panoptic_seg_predictions
    """,
    "backbones that no config of this project uses, and wrappers of other projects": """
        ViT SimpleFeaturePyramid get_vit_lr_decay_rate MViT RegNet MMDetBackbone MMDetDetector
    """,
    "parts of two-stage models for rotated boxes, and their evaluation": """
        roi_align_rotated ROIAlignRotated RotatedCOCOEvaluator
    """,
    "data sets and evaluators of other benchmarks": """
        register_coco_panoptic register_coco_panoptic_separated load_lvis_json register_lvis_instances
        get_lvis_instances_meta register_all_lvis
        register_all_cityscapes load_cityscapes_instances load_cityscapes_semantic
        register_all_cityscapes_panoptic register_all_ade20k ADE20K_SEM_SEG_CATEGORIES
        CityscapesInstanceEvaluator CityscapesSemSegEvaluator LVISEvaluator COCOPanopticEvaluator
        PascalVOCDetectionEvaluator SemSegEvaluator
    """,
}
# Name -> why its signature may differ from the recorded one.
OTHER_SIGNATURE = {
    "Backbone.forward": "abstract; the recorded one takes nothing, every backbone takes a batch",
    "NoOpTransform.apply_rotated_box": "only ever called by position",
    "cross_entropy": "that of torch, with all its options spelled out",
    "SwinTransformerBlock.forward": "a part of Swin: only the backbone as a whole is public",
    "PatchMerging.forward": "the same",
    "BasicLayer": "the same",
    "BasicLayer.forward": "the same",
}

MISSING_ON_PURPOSE = {name for names in LEFT_OUT.values() for name in names.split()}

# Modules without __all__ whose public names are also public where they are defined.
REEXPORTS = {"detectron2", "detectron2.data.datasets.register_coco"}


def is_import_of_another_module(module: str, name: str, fact: dict) -> bool:
    """Without __all__, everything that a module imports looks public; it is checked where it is at home."""
    if API[module]["has___all__"] or module in REEXPORTS:
        return False
    home = fact.get("defined_in") or fact.get("class", "").rpartition(".")[0] or module
    elsewhere = (other["has___all__"] and name in other["names"] for key, other in API.items() if key != module)
    return home != module and (home in API or any(elsewhere))


ENTRIES = [
    (module, name)
    for module, content in API.items()
    for name, fact in content["names"].items()
    if not is_import_of_another_module(module, name, fact)
]


# ---- signatures as text: argument names, defaults, and the * and / between them; annotations are not compared


def split_arguments(text: str) -> list[str]:
    """Splits "(a: X[b, c], d=(1, 2)) -> R" at the outermost commas."""
    parts, depth, part = [], 0, ""
    for position, char in enumerate(text):
        if char in "([{" or (char == "<" and text[:position].rstrip().endswith("=")):
            depth += 1
        elif char in ")]}" or (char == ">" and text[position - 1] != "-"):
            depth -= 1
            if depth == 0:
                break
        if char == "," and depth == 1:
            parts.append(part)
            part = ""
        elif position:
            part += char
    return [part.strip() for part in [*parts, part] if part.strip()]


def argument(text: str) -> tuple[str, str | None]:
    """Name (with its stars) and text of the default."""
    name, _, default = text.partition("=") if ":" not in text.partition("=")[0] else _annotated(text)
    default = re.sub(r" at 0x\w+|\bclass (?=')", "", default.strip())
    return name.strip(), default or None


def _annotated(text: str) -> tuple[str, str, str]:
    name, _, rest = text.partition(":")
    depth = 0
    for position, char in enumerate(rest):
        depth += (char in "([{") - (char in ")]}")
        if char == "=" and depth == 0:
            return name, "=", rest[position + 1 :]
    return name, "", ""


def arguments(signature: str) -> list[tuple[str, str | None]]:
    return [argument(part) for part in split_arguments(signature)]


def test_reading_of_signatures():
    text = "(self, a: Union[X, Tuple[int, ...]] = (1, 2), *, b='=,', mode=<C.IMAGE: 0>, **kw: Any) -> Dict[str, int]"
    assert arguments(text.replace("'=,'", "'='")) == [
        ("self", None),
        ("a", "(1, 2)"),
        ("*", None),
        ("b", "'='"),
        ("mode", "<C.IMAGE: 0>"),
        ("**kw", None),
    ]


@pytest.mark.parametrize(
    "found, expected, fits",
    [
        ("(a, b=1)", "(a, b=1)", True),
        ("(a, b=1, c=2)", "(a, b=1)", True),
        ("(a, b=1, c)", "(a, b=1)", False),
        ("(b=1, a)", "(a, b=1)", False),
        ("(a, b=2)", "(a, b=1)", False),
        ("(a, b)", "(a, b=1)", False),
        ("(a)", "(a, b=1)", False),
        ("(a, *, b=1)", "(a, b=1)", False),
        ("(a, b=1)", "(a, *, b=1)", True),
        ("(a)", "(a, **kwargs)", False),
        ("(a, *args, **kwargs)", "(a, **kwargs)", True),
    ],
)
def test_what_counts_as_the_same_signature(found, expected, fits):
    assert accepts(arguments(found), arguments(expected)) == fits


# ---- comparison of one name; each part returns what differs


def compare_signature(what: str, expected: str, found) -> list[str]:
    if what in OTHER_SIGNATURE:
        return []
    try:
        text = str(inspect.signature(found))
    except ValueError as error:
        return [f"{what}: {error}"]
    fits = expected == "(*args, **kwargs)" or accepts(arguments(text), arguments(expected))
    return [] if fits else [f"{what}: expected {expected}, found {text}"]


def accepts(found: list[tuple[str, str | None]], expected: list[tuple[str, str | None]]) -> bool:
    """Whether every call that fits `expected` means the same to `found`, which may take optional arguments more."""
    by_position = list(itertools.takewhile(lambda item: not item[0].startswith("*"), expected))
    extra = dict(found)
    for name, default in expected:
        if not name.startswith("*") and extra.pop(name, "missing") != default:
            return False
    variable = {name[: name.count("*")] for name, _ in expected if name.strip("*") and name.startswith("*")}
    present = {name[: name.count("*")] for name in extra if name.strip("*") and name.startswith("*")}
    optional = all(default is not None for name, default in extra.items() if not name.startswith("*"))
    return found[: len(by_position)] == by_position and optional and variable <= present


def compare_home(name: str, fact: dict, found) -> list[str]:
    home = importlib.import_module(fact["defined_in"])
    at_home = getattr(found, "__name__", name)  # a name of its own where it is exported under another one
    return [] if getattr(home, at_home, found) is found else [f"{name} is another object in {fact['defined_in']}"]


def dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def compare_class(name: str, fact: dict, cls: type) -> list[str]:
    if not inspect.isclass(cls):
        return [f"{name} is no class"]
    if "alias_of" in fact:
        return [] if dotted(cls) == fact["alias_of"] else [f"{name} is {dotted(cls)}, not {fact['alias_of']}"]
    problems = compare_home(name, fact, cls)
    ancestors = {*map(dotted, cls.__mro__), *cls.__mro__}
    bases = [base for base in fact["bases"] if base.rpartition(".")[2] not in MISSING_ON_PURPOSE]
    problems += [f"{name} does not inherit {base}" for base in bases if not ancestors & {base, locate(base)}]
    if fact.get("init") is not None:
        problems += compare_signature(name, fact["init"], cls)
    if "members" in fact:
        assert issubclass(cls, Enum)
        members = {key: member.value for key, member in cls.__members__.items()}
        problems += [] if members == fact["members"] else [f"{name} has members {members}"]
    problems += compare_methods(name, fact.get("methods", {}), cls)
    problems += compare_properties(name, fact.get("properties", {}), cls)
    return problems + compare_attributes(name, fact.get("class_attributes", {}), cls)


def compare_methods(name: str, methods: dict, owner) -> list[str]:
    problems = []
    for method, fact in methods.items():
        what = f"{name}.{method}"
        if what in MISSING_ON_PURPOSE:
            problems += [f"{what} is listed as left out, but is there"] if hasattr(owner, method) else []
        elif not callable(getattr(owner, method, None)):
            problems.append(f"{what} is missing")
        else:
            static = inspect.getattr_static(owner, method, None)
            kind = {staticmethod: "staticmethod", classmethod: "classmethod"}.get(type(static))
            problems += [] if kind == fact.get("type") else [f"{what} is a {kind}, not a {fact.get('type')}"]
            problems += compare_signature(what, fact["signature"], getattr(owner, method))
    return problems


def compare_properties(name: str, properties: dict, cls: type) -> list[str]:
    problems = []
    for key, fact in properties.items():
        found = inspect.getattr_static(cls, key, None)
        if not isinstance(found, (property, functools.cached_property)):
            problems.append(f"{name}.{key} is no property")
        elif (getattr(found, "fset", None) is not None) != fact["settable"]:
            problems.append(f"{name}.{key}: settable should be {fact['settable']}")
    return problems


def compare_attributes(name: str, attributes: dict, cls: type) -> list[str]:
    problems = []
    for key, fact in attributes.items():
        found = getattr(cls, key, "nothing")
        if "value" in fact and fact["value"] not in (found, repr(found), str(found)):
            problems.append(f"{name}.{key} is {found!r}, not {fact['value']!r}")
    return problems


def compare_instance(name: str, fact: dict, found) -> list[str]:
    class_name = fact["class"].rpartition(".")[2]
    ancestors = {cls.__name__ for cls in type(found).__mro__}
    public = not class_name.startswith("_")
    problems = [f"{name} is a {dotted(type(found))}"] if public and class_name not in ancestors else []
    for method, method_fact in fact.get("methods", {}).items():
        if not callable(getattr(found, method, None)):
            problems.append(f"{name}.{method} is missing")
        elif "self" in method_fact["signature"]:
            problems += compare_signature(f"{name}.{method}", method_fact["signature"], getattr(type(found), method))
    registered = set(fact.get("registered_names", ())) - MISSING_ON_PURPOSE
    return problems + [f"{entry} is not registered in {name}" for entry in sorted(registered) if entry not in found]


def compare_constant(name: str, fact: dict, found) -> list[str]:
    same = type(found).__name__ == fact["type"] and fact["value"] in (found, repr(found), repr(found).split(".", 1)[-1])
    return [] if same else [f"{name} is {found!r}"]


def compare(name: str, fact: dict, found) -> list[str]:
    if fact["kind"] == "class":
        problems = compare_class(name, fact, found)
    elif fact["kind"] == "function":
        problems = compare_home(name, fact, found) + compare_signature(name, fact["signature"], found)
    elif fact["kind"] == "instance":
        problems = compare_instance(name, fact, found)
    else:
        problems = compare_constant(name, fact, found)
    if fact.get("configurable"):
        problems += compare_signature(f"{name}.from_config", fact["from_config"], found.from_config)
    return problems


@pytest.mark.parametrize("module, name", ENTRIES, ids=[".".join(entry) for entry in ENTRIES])
def test_public_name(module, name):
    # import_module, because detectron2.engine.launch as an attribute is the function.
    found = getattr(importlib.import_module(module), name, None)
    if {name, f"{module.rpartition('.')[2]}.{name}"} & MISSING_ON_PURPOSE:
        # There or not, it cannot be used.
        assert found is None or type(found).__name__ == "_LeftOut", "listed as left out, but is there: take it off"
        return
    assert found is not None, "neither there nor on the list of what is left out"
    assert compare(name, API[module]["names"][name], found) == []


@pytest.mark.parametrize("module", [module for module, content in API.items() if content["has___all__"]])
def test_star_import_brings_what_the_facts_say(module):
    names = {name for name, fact in API[module]["names"].items() if not fact.get("outside___all__")}
    assert names - MISSING_ON_PURPOSE <= set(importlib.import_module(module).__all__)


def test_the_list_of_what_is_left_out_names_real_things():
    known = {name for _, name in ENTRIES} | {f"{module.rpartition('.')[2]}.{name}" for module, name in ENTRIES}
    known |= {f"{name}.{method}" for m, name in ENTRIES for method in API[m]["names"][name].get("methods", {})}
    known |= {entry for m, name in ENTRIES for entry in API[m]["names"][name].get("registered_names", ())}
    assert MISSING_ON_PURPOSE <= known
