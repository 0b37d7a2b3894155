import re

import pytest
import torch
from PIL import Image

from defcn_ext.config import UserError
from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import load_config
from defcn_ext.pictures.labelling import observe_labels, progress_of
from defcn_ext.pictures.labels import Shade, highest_of_levels, label_figure
from defcn_ext.pictures.scenes import load_scene
from defcn_ext.predictor import Predictor, ScoreMap
from defcn_ext.tools import visualize_labels
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog
from tests.quick import REPOSITORY

O2F, DW, POTO, DATE_R = (
    str(REPOSITORY / "configs" / "Quick" / f"{name}.yaml") for name in ("o2f", "dw", "poto", "date_r")
)
THIN = ["MODEL.FPN.OUT_CHANNELS", "32", "MODEL.DEFCN.NUM_CONVS", "1", "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "201"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """config file -> a checkpoint of iteration 50 whose boxes are not empty and whose scores differ."""

    def save(config_file):
        torch.manual_seed(0)
        model = Trainer.build_model(load_config(config_file, THIN))
        first = next(iter(model.branches.values()))
        torch.nn.init.normal_(first.cls_score.weight, std=0.3)
        torch.nn.init.constant_(first.bbox_pred.bias, 2.0)
        folder = tmp_path_factory.mktemp("weights")
        DetectionCheckpointer(model, str(folder)).save("model", iteration=50)
        return str(folder / "model.pth")

    return {config_file: save(config_file) for config_file in (O2F, DW, POTO, DATE_R)}


@pytest.fixture
def observe(quick, weights, tmp_path):
    """config file, progress -> what `observe_labels` says of an image shown at twice its size, and the image."""

    def look(config_file, progress=0.5, branch=""):
        changes = [*THIN, "INPUT.MIN_SIZE_TEST", "192"]
        detector = Predictor.load(
            config_file, weights[config_file], changes, dataset="quick_train", output=str(tmp_path)
        )
        record = next(r for r in DatasetCatalog.get("quick_train") if len(r["annotations"]) > 1)
        scene = load_scene(record)
        assert min(scene.image.shape[:2]) == 96
        return observe_labels(detector, record, scene, progress, branch), scene

    return look


@pytest.mark.parametrize("progress, ceiling", [(0.0, 0.6), (0.5, 0.6 - 0.4 * 6 / 11), (1.0, 0.2)])
def test_labels_of_one_to_few_fall(observe, progress, ceiling):
    moment, _ = observe(O2F, progress)
    (shade,) = moment.shades
    ambiguous = shade.value[~shade.certain]
    assert ambiguous.max().item() == pytest.approx(ceiling, abs=1e-5)
    assert shade.certain.sum() == len(shade.object[shade.certain].unique()) == len(shade.object.unique())
    assert moment.title == f"o2f, {100 * progress:.0f}% of the training, T = {ceiling:.2f}"


def test_points_lie_in_their_objects_in_pixels_of_the_image(observe):
    """Center sampling keeps points inside the box, whatever the size at which the network sees the image."""
    moment, scene = observe(O2F)
    boxes = scene.objects.gt_boxes.tensor[moment.shades[0].object]
    xy = moment.shades[0].xy
    assert len(xy) > len(scene.objects)
    assert ((xy > boxes[:, :2]) & (xy < boxes[:, 2:])).all()
    # points of stride 8 at twice the size are odd multiples of 2 here
    assert (((xy / 2) % 2 - 1).abs() < 1e-4).any()
    assert moment.scores.cell == pytest.approx((4.0, 4.0))


def test_hard_rules_have_full_positives_only(observe):
    moment, _ = observe(POTO)
    (shade,) = moment.shades
    assert shade.certain.all() and (shade.value == 1).all() and moment.title == "poto, 50% of the training"


def test_dual_weighting_has_two_weights(observe):
    moment, _ = observe(DW)
    positive, negative = moment.shades
    assert positive.name == "positive weight" and negative.name.startswith("P")
    assert not positive.certain.any() and not negative.certain.any()
    assert 0 <= negative.value.min() <= negative.value.max() == 1
    for index in positive.object.unique():  # 50-dw, section 6: the weights of one object sum to 1 to e^2
        assert 0.99 < positive.value[positive.object == index].sum() < 7.39


def test_anchors_of_a_branch_that_only_trains(observe):
    moment, scene = observe(DATE_R, branch="ONE_TO_MANY")
    assert len(moment.shades[0].value) >= len(scene.objects)
    height, width = (-(-2 * n // 32) * 4 for n in scene.image.shape[:2])  # cells of 8 pixels, padded to 32
    assert moment.scores.scores.shape == (height, width)


def test_highest_of_levels():
    """A coarse cell covers two by two fine ones; one that sticks out is cut, one that is missing counts as 0."""
    fine = torch.tensor([[0.1, 0.5, 0.2], [0.3, 0.1, 0.2]])
    coarse = torch.tensor([[0.4, 0.6]])
    merged = highest_of_levels([ScoreMap("P3", fine, (8, 8)), ScoreMap("P4", coarse, (16, 16))])
    assert torch.equal(merged.scores, torch.tensor([[0.4, 0.5, 0.6], [0.4, 0.4, 0.6]]))
    short = highest_of_levels([ScoreMap("P3", fine, (8, 8)), ScoreMap("P4", coarse[:, :1], (16, 16))])
    assert torch.equal(short.scores, torch.tensor([[0.4, 0.5, 0.2], [0.4, 0.4, 0.2]]))


def test_picture_of_two_moments(quick, weights, tmp_path, capsys):
    """One checkpoint at its own progress, 50 of 200; and at two that are given."""
    common = ["--config-file", O2F, "--weights", weights[O2F], "--output", str(tmp_path)]
    sizes = []
    for extra in ([], ["--progress", "0.1", "0.9"]):
        visualize_labels.main([*common, *extra, *THIN])
        (path,) = capsys.readouterr().out.split()
        assert path.startswith(str(tmp_path / "labels_"))
        sizes.append(Image.open(path).size)
    assert sizes[0][0] == sizes[1][0] and 1.6 < sizes[1][1] / sizes[0][1] < 2


def test_progress_of_a_checkpoint(quick, weights, tmp_path):
    detector = Predictor.load(O2F, weights[O2F], THIN, output=str(tmp_path))
    assert progress_of(detector, weights[O2F]) == pytest.approx(50 / 200)
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "bare.pth")
    with pytest.raises(UserError, match=r"bare\.pth.*--progress"):
        progress_of(detector, str(tmp_path / "bare.pth"))


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--branch", "AUX"], "--branch AUX: o2f has ONE_TO_ONE"),
        (["--image", "nothing.png"], "--image nothing.png"),
        (["--weights", "a.pth", "--progress", "1.5"], r"--progress in \[0, 1\]"),
        (["--images", "0"], "--images must be at least 1"),
    ],
)
def test_mistakes_are_named(quick, weights, tmp_path, capsys, extra, message):
    with pytest.raises(SystemExit) as info:
        visualize_labels.main(
            ["--config-file", O2F, "--weights", weights[O2F], "--output", str(tmp_path), *extra, *THIN]
        )
    shown = capsys.readouterr().err if info.value.code == 2 else info.value.code
    assert re.search(message, shown)


def test_figure_says_what_it_shows(observe):
    early, scene = observe(O2F, 0.0)
    late, _ = observe(O2F, 1.0)
    figure = label_figure(scene, [early, late])
    titles = [t.get_text() for t in figure.texts] + [axes.get_title() for axes in figure.axes]
    assert early.title in titles and late.title in titles
    shade = late.shades[0]
    certain = int(shade.certain.sum())
    caption = f"{len(scene.objects)} objects, {certain} certain, {len(shade.value) - certain} ambiguous, label "
    assert any(t.startswith(caption) and t.endswith("to 0.20") for t in titles)
    assert len(figure.axes) == 2 * 2 * 2  # rows, panels, each with its bar


def test_an_image_without_objects_has_a_picture(observe):
    moment, scene = observe(O2F)
    none = Shade("label", torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    empty = type(scene)(scene.image, scene.objects[[]], "empty")
    figure = label_figure(empty, [type(moment)("nothing", (none,), moment.scores)])
    assert any(axes.get_title() == "0 objects, 0 certain" for axes in figure.axes)
