"""Names that are only there to be imported, as Detectron2's own tools import them."""

import importlib

import pytest

pytestmark = pytest.mark.standin_only("names without what is behind them")

EVALUATORS = (
    "CityscapesInstanceEvaluator CityscapesSemSegEvaluator COCOPanopticEvaluator LVISEvaluator "
    "PascalVOCDetectionEvaluator RotatedCOCOEvaluator SemSegEvaluator"
)
MODELS = "DatasetMapperTTA GeneralizedRCNN GeneralizedRCNNWithTTA PanopticFPN ProposalNetwork SemanticSegmentor"
NAMES = [
    *(("detectron2.evaluation", name) for name in EVALUATORS.split()),
    *(("detectron2.modeling", name) for name in MODELS.split()),
    ("detectron2.utils.video_visualizer", "VideoVisualizer"),
    ("detectron2.data.benchmark", "DataLoaderBenchmark"),
    ("detectron2.export", "scripting_with_instances"),
    *(
        ("detectron2.utils.testing", name)
        for name in ("convert_scripted_instances", "register_custom_op_onnx_export", "unregister_custom_op_onnx_export")
    ),
]


@pytest.mark.parametrize("module, name", NAMES)
def test_it_can_be_imported_and_says_what_is_missing_when_used(module, name):
    found = getattr(importlib.import_module(module), name)
    with pytest.raises(NotImplementedError, match=f"^{name}: .*An installed Detectron2 has it"):
        found("anything")
    with pytest.raises(NotImplementedError, match=rf"^{name}\.build"):
        found.build()
    assert not isinstance(3, found) and not hasattr(found, "__wrapped__")
    with pytest.raises(NotImplementedError):
        type("Child", (found,), {})()
