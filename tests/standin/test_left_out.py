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
    ("detectron2.projects.point_rend", "add_pointrend_config"),
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


# What the tools of Detectron2's repository import of it.
TOOLS = {
    "train_net": """
        checkpoint: DetectionCheckpointer
        config: get_cfg
        data: MetadataCatalog
        engine: DefaultTrainer default_argument_parser default_setup hooks launch
        evaluation: CityscapesInstanceEvaluator CityscapesSemSegEvaluator COCOEvaluator COCOPanopticEvaluator
        evaluation: DatasetEvaluators LVISEvaluator PascalVOCDetectionEvaluator SemSegEvaluator verify_results
        modeling: GeneralizedRCNNWithTTA
    """,
    "plain_train_net": """
        checkpoint: DetectionCheckpointer PeriodicCheckpointer
        data: MetadataCatalog build_detection_test_loader build_detection_train_loader
        engine: default_argument_parser default_setup default_writers launch
        evaluation: inference_on_dataset print_csv_format
        modeling: build_model
        solver: build_lr_scheduler build_optimizer
        utils.events: EventStorage
    """,
    "lazyconfig_train_net": """
        config: LazyConfig instantiate
        engine: AMPTrainer SimpleTrainer default_argument_parser default_setup default_writers hooks launch
        engine.defaults: create_ddp_model
        evaluation: inference_on_dataset print_csv_format
        utils: comm
    """,
    "analyze_model": """
        config: CfgNode LazyConfig get_cfg instantiate
        utils.analysis: FlopCountAnalysis activation_count_operators parameter_count_table
        utils.logger: setup_logger
    """,
    "benchmark": """
        data: DatasetFromList build_detection_test_loader build_detection_train_loader
        data.benchmark: DataLoaderBenchmark
        utils.collect_env: collect_env_info
        utils.events: CommonMetricPrinter
    """,
    "visualize": """
        data: DatasetCatalog MetadataCatalog detection_utils
        data.build: filter_images_with_few_keypoints
        structures: Boxes BoxMode Instances
        utils.file_io: PathManager
        utils.visualizer: ColorMode Visualizer
        utils.video_visualizer: VideoVisualizer
        engine.defaults: DefaultPredictor
    """,
    "export_model": """
        export: STABLE_ONNX_OPSET_VERSION TracingAdapter dump_torchscript_IR scripting_with_instances
        modeling: GeneralizedRCNN RetinaNet build_model
        modeling.postprocessing: detector_postprocess
        projects.point_rend: add_pointrend_config
        utils.env: TORCH_VERSION
    """,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tools_of_detectron2_find_what_they_import(tool):
    for line in TOOLS[tool].strip().splitlines():
        module, _, names = line.strip().partition(": ")
        exec(f"from detectron2.{module} import {', '.join(names.split())}", {})
