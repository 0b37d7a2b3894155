import pytest
import torch
from PIL import Image

from defcn_ext.config import UserError
from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import load_config
from defcn_ext.pictures.scenes import spread
from defcn_ext.pictures.sheets import detection_columns
from defcn_ext.predictor import Predictor, score_maps
from defcn_ext.tools import visualize
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tests.quick import REPOSITORY

FCOS, DEFCN = (str(REPOSITORY / "configs" / "Quick" / f"{name}.yaml") for name in ("fcos", "poto_3dmf_aux"))
THIN = ["MODEL.FPN.OUT_CHANNELS", "32", "MODEL.DEFCN.NUM_CONVS", "1", "MODEL.DEVICE", "cpu"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """config file -> a checkpoint of an untrained model whose scores differ from point to point."""

    def save(config_file: str) -> str:
        torch.manual_seed(0)
        model = Trainer.build_model(load_config(config_file, THIN))
        first = next(iter(model.branches.values()))
        torch.nn.init.normal_(first.cls_score.weight, std=0.3)
        torch.nn.init.zeros_(first.cls_score.bias)
        if first.filter is not None:
            torch.nn.init.normal_(first.filter.weight, std=0.3)
        torch.nn.init.constant_(first.bbox_pred.bias, 1.0)
        folder = tmp_path_factory.mktemp("weights")
        DetectionCheckpointer(model, str(folder)).save("model")
        return str(folder / "model.pth")

    return {config_file: save(config_file) for config_file in (FCOS, DEFCN)}


@pytest.fixture
def defcn(quick, weights, tmp_path):
    return Predictor.load(DEFCN, weights[DEFCN], THIN, dataset="", output=str(tmp_path))


def test_writes_a_sheet_and_the_score_maps_of_both_detectors(quick, weights, tmp_path, capsys):
    arguments = ["--config-file", FCOS, "--weights", weights[FCOS], "--compare-config", DEFCN]
    arguments += ["--compare-weights", weights[DEFCN], "--images", "2", "--score-maps", "--output", str(tmp_path)]
    visualize.main([*arguments, *THIN])
    printed = capsys.readouterr().out.split()
    assert sorted(p.name for p in tmp_path.glob("*.png")) == sorted(p.rpartition("/")[2] for p in printed)
    assert len(printed) == 3
    sizes = [Image.open(path).size for path in printed]
    assert all(width > 1000 for width, _ in sizes)


def test_columns_of_both_detectors(defcn):
    records = spread(DatasetCatalog.get("quick_val"), 2)
    seen = [[defcn.observe(r) for r in records]] * 2
    columns = detection_columns([defcn, defcn], seen, 0.1)
    assert [name for name, _ in columns] == ["poto_3dmf_aux without NMS", "poto_3dmf_aux with NMS"] * 2
    without, with_nms = columns[0][1][0], columns[1][1][0]
    assert len(without) >= len(with_nms) > 0
    assert (without.scores > 0.1).all()


def test_score_maps_are_the_scores_behind_the_detections(quick, weights, tmp_path):
    changes = [*THIN, "TEST.DETECTIONS_PER_IMAGE", "10000", "MODEL.DEFCN.SCORE_THRESH_TEST", "0.3"]
    changes += ["MODEL.DEFCN.TOPK_CANDIDATES_TEST", "100000"]
    detector = Predictor.load(DEFCN, weights[DEFCN], changes, dataset="", output=str(tmp_path))
    seen = detector.observe(DatasetCatalog.get("quick_val")[0])
    (first, raw), (second, filtered) = seen.maps
    assert (first, second) == ("poto_3dmf_aux\nwithout filter", "poto_3dmf_aux")
    assert [level.level for level in filtered][:2] == ["P3 (stride 8)", "P4 (stride 16)"] and len(filtered) == 5
    for without, with_filter in zip(raw, filtered):
        assert (with_filter.scores < without.scores).all()
    best = max(level.scores.max() for level in filtered)
    assert seen.detections["without_nms"].scores.max() == pytest.approx(float(best), rel=1e-5)


def test_cells_are_measured_in_pixels_of_the_original_image(defcn):
    record = DatasetCatalog.get("quick_val")[0]
    seen = defcn.observe(record)
    finest = seen.maps[0][1][0]
    enlarged = 160 / min(record["height"], record["width"])  # INPUT.MIN_SIZE_TEST
    assert finest.cell == pytest.approx((8 / enlarged, 8 / enlarged), rel=0.02)
    assert finest.scores.shape[0] * finest.cell[0] >= record["height"] - 0.5
    assert finest.scores.shape[1] * finest.cell[1] >= record["width"] - 0.5


def test_centerness_enters_the_score_maps(quick, weights, tmp_path):
    changes = [*THIN, "MODEL.DEFCN.ONE_TO_MANY.CENTERNESS", "reg"]
    torch.manual_seed(0)
    model = Trainer.build_model(load_config(FCOS, changes)).eval()
    image = torch.rand(1, 3, 160, 192)
    with torch.no_grad():
        points, features = model.extract(image)
        predictions = model.predict(points, features, model.test_branch)
    maps = score_maps(model, points, predictions, (1.0, 1.0))
    scores = predictions.logits[0].sigmoid().amax(-1) * predictions.centerness[0, :, 0].sigmoid()
    assert torch.cat([m.scores.flatten() for m in maps]) == pytest.approx(scores.sqrt(), rel=1e-5)


def test_other_architectures_show_their_one_kind_of_detections(quick):
    class Stock(torch.nn.Module):
        def forward(self, inputs):
            from tests.evaluation.test_outcomes import detections

            return [{"instances": detections([[0, 0, 10, 10]], [0.9], [0])}]

    detector = Predictor(CfgNode(), Stock(), "stock", lambda record: record)
    seen = detector.observe({})
    columns = detection_columns([detector], [[seen]], 0.3)
    assert [name for name, _ in columns] == ["stock"] and len(columns[0][1][0]) == 1 and seen.maps == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--weights": ""}, "give its checkpoint"),
        ({"--weights": "nowhere.pth"}, "nowhere.pth: no such file"),
        ({"--dataset": "quick_vall"}, "unknown data set quick_vall; did you mean quick_val"),
        ({"--config-file": "nowhere.yaml"}, "nowhere.yaml: no such file"),
    ],
)
def test_errors_name_the_thing_and_the_fix(quick, weights, tmp_path, changes, message):
    options = {"--config-file": FCOS, "--weights": weights[FCOS], "--output": str(tmp_path), **changes}
    arguments = [x for pair in options.items() for x in pair]
    with pytest.raises(SystemExit, match=message):
        visualize.main([*arguments, *THIN])


def test_weights_may_come_from_the_options(quick, weights, tmp_path):
    opts = [*THIN, "MODEL.WEIGHTS", weights[FCOS]]
    assert Predictor.load(FCOS, "", opts, dataset="", output=str(tmp_path)).label == "fcos"
    with pytest.raises(UserError, match="unknown config key MODEL.WEIGHT;"):
        Predictor.load(FCOS, "", [*opts, "MODEL.WEIGHT", "x"], dataset="", output=str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare-config", DEFCN], "one --compare-weights for each"),
        (["--config-file", ""], "give --weights, and --config-file"),
        (["--images", "0"], r"--images must be in [1, 64]"),
        (["--score", "1"], r"--score in [0, 1)"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit):
        visualize.main(["--config-file", FCOS, *arguments])
    assert message in capsys.readouterr().err
