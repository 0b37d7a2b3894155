"""What the tests of the stand-in may rest on, if an installed Detectron2 is to pass them too."""

import ast
import json
from pathlib import Path

import pytest

from tests import conftest
from tests.conftest import FACTS

TESTS = Path(conftest.__file__).parent
API = json.loads((FACTS / "api.json").read_text())
PACKAGES = {name.rsplit(".", depth)[0] for name in API for depth in range(name.count(".") + 1)}
# Names of Detectron2 that no __all__ and no tutorial makes public, but that its own projects and tests import.
ALSO_THERE = """
    checkpoint.c2_model_loading.align_and_update_state_dicts checkpoint.c2_model_loading.convert_c2_detectron_names
    config.compat.guess_version evaluation.fast_eval_api.COCOeval_opt layers.batch_norm.LayerNorm
    layers.mask_ops.pad_masks layers.mask_ops.paste_mask_in_image_old layers.mask_ops.scale_boxes
    layers.rotated_boxes.pairwise_iou_rotated modeling.box_regression._dense_box_regression_loss
    export.TracingAdapter export.dump_torchscript_IR
    solver.build.maybe_add_gradient_clipping solver.build.reduce_param_groups
    structures.boxes.matched_pairwise_iou structures.boxes.pairwise_intersection
    utils.colormap.colormap utils.colormap.random_color utils.colormap.random_colors
    utils.testing.assert_instances_allclose utils.testing.get_sample_coco_image utils.testing.min_torch_version
    utils.testing.random_boxes utils.testing.reload_script_model utils.testing.skipIfOnCPUCI
    registry._obj_map InferenceSampler._get_local_indices
""".split()


def is_known(module: str, name: str) -> bool:
    dotted = f"{module}.{name}"
    return dotted in PACKAGES or name in API.get(module, {}).get("names", ()) or dotted[11:] in ALSO_THERE


def is_marked(node: ast.AST) -> bool:
    return any("standin_only" in ast.unparse(mark) for mark in getattr(node, "decorator_list", ()))


def unmarked(tree: ast.AST):
    """All nodes but those inside of functions and classes that are marked `standin_only`."""
    for child in ast.iter_child_nodes(tree):
        if not is_marked(child):
            yield child
            yield from unmarked(child)


def imports(node: ast.AST) -> list[tuple[str, str, str]]:
    """(local name, module, name) of what an import statement takes from Detectron2."""
    if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] != "detectron2":
        return []
    return [(alias.asname or alias.name, node.module, alias.name) for alias in node.names]


def strangers(source: str) -> list[str]:
    """What a test file takes from Detectron2 that only the stand-in has, outside of marked tests."""
    nodes = list(unmarked(ast.parse(source)))
    taken = [entry for node in nodes for entry in imports(node)]
    found = [f"{module}.{name}" for _, module, name in taken if not is_known(module, name)]
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr[0] == "_" != node.attr[1]:
            owner = node.value
            public = f"{ast.unparse(owner)}.{node.attr}" in ALSO_THERE or node.attr == "_obj_map"
            if isinstance(owner, ast.Name) and owner.id in {local for local, *_ in taken} and not public:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("detectron2."):
            if any(part[:1] == "_" for part in node.value.split(".")):
                found.append(node.value)
    return found


@pytest.mark.parametrize(
    "source, expected",
    [
        ("from detectron2.structures import Boxes", []),
        ("from detectron2.structures import _Boxes", ["detectron2.structures._Boxes"]),
        ("from detectron2.modeling.backbone import swin_blocks", ["detectron2.modeling.backbone.swin_blocks"]),
        ("from detectron2.layers import nms\nnms._secret()", ["nms._secret"]),
        ("patch('detectron2.layers.mask_ops._masks_per_chunk')", ["detectron2.layers.mask_ops._masks_per_chunk"]),
        ("@pytest.mark.standin_only('x')\ndef test():\n    from detectron2.layers import _x", []),
    ],
)
def test_what_is_found(source, expected):
    assert strangers(source) == expected


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_only_marked_tests_take_what_only_the_stand_in_has(path):
    if path != Path(__file__):
        assert strangers(path.read_text()) == []


@pytest.mark.parametrize("found, skipped", [("standin", []), ("installed", ["of the stand-in alone: why"])])
def test_marked_tests_are_skipped_where_detectron2_is_installed(monkeypatch, found, skipped):
    class Item:
        def __init__(self, *marks):
            self.marks, self.added = marks, []

        def get_closest_marker(self, name):
            return next((mark for mark in self.marks if mark.name == name), None)

        def add_marker(self, decorator):
            self.added.append(decorator.mark)

    monkeypatch.setattr(conftest, "ensure_detectron2", lambda: found)
    items = [Item(), Item(pytest.mark.standin_only("why").mark)]
    conftest.pytest_collection_modifyitems(items)
    assert items[0].added == [] and [mark.kwargs["reason"] for mark in items[1].added] == skipped
