import pytest
import torch
from PIL import Image

from defcn_ext.pictures import batches
from defcn_ext.tools import visualize_batch
from tests.quick import REPOSITORY

POTO = str(REPOSITORY / "configs" / "Quick" / "poto.yaml")
MIXED = ["INPUT.MIX.MOSAIC", "1.0", "INPUT.MIX.COPY_BLEND", "1.0", "SEED", "0", "SOLVER.IMS_PER_BATCH", "3"]
CPU = ["MODEL.DEVICE", "cpu"]


@pytest.mark.slow
def test_draws_the_batch_of_an_iteration(quick, tmp_path, capsys, monkeypatch):
    seen = []
    figure = batches.batch_figure
    monkeypatch.setattr(
        batches, "batch_figure", lambda batch, *rest: seen.append((batch, rest)) or figure(batch, *rest)
    )
    output = tmp_path / "new" / "batch.png"
    arguments = ["--config-file", POTO, "--iteration", "6", "--output", str(output), *MIXED, *CPU]
    visualize_batch.main([*arguments, "SOLVER.MAX_ITER", "20"])
    assert capsys.readouterr().out == f"{output}\n"
    (batch, (names, _, heading)), *_ = seen
    assert [x["mixed"] for x in batch] == [("mosaic", "copy-blend")] * 3
    assert list(names) == ["disc", "ring", "square", "triangle"] and "iteration 6 (30 %" in heading
    width, height = Image.open(output).size
    assert width > 1000 and height > 300
    for mask_format in ("polygon", "bitmask"):
        drawn = figure(with_masks(batch[:1], mask_format), names, "BGR")
        assert "mosaic, copy-blend" in drawn.axes[0].get_title()
        masks = drawn.axes[0].collections if mask_format == "bitmask" else drawn.axes[0].patches
        count = len(batch[0]["instances"])
        assert len(masks) == (count if mask_format == "bitmask" else 2 * count)


def with_masks(batch, mask_format):
    """The boxes as masks."""
    masked = []
    for sample in batch:
        instances, size = sample["instances"], sample["image"].shape[1:]
        boxes = instances.gt_boxes.tensor.tolist()
        polygons = batches.PolygonMasks([[torch.tensor([a, b, c, b, c, d, a, d])] for a, b, c, d in boxes])
        chosen = polygons if mask_format == "polygon" else batches.BitMasks.from_polygon_masks(polygons, *size)
        masked.append({**sample, "instances": batches.Instances(size, **instances.get_fields(), gt_masks=chosen)})
    return masked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--iteration", "-1"], "--iteration -1: the training has 0 to"),
        (["--config-file", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["INPUT.MIX.SHARES", "(0.5, 0.1)"], r"INPUT.MIX.SHARES: expected \(start, stop\)"),
        (["INPUT.MIX.MOSAIC", "2.0"], r"INPUT.MIX.MOSAIC: expected a number in \[0, 1\]"),
    ],
)
def test_mistakes_are_told_in_one_line(quick, tmp_path, arguments, message):
    fixed = ["--config-file", POTO, "--output", str(tmp_path / "x.png")]
    options, changes = (arguments, []) if arguments[0].startswith("--") else ([], arguments)
    with pytest.raises(SystemExit, match=message) as error:
        visualize_batch.main([*fixed, *options, *CPU, *changes])
    assert "\n" not in error.value.code
