"""Every released layout becomes the model it is of, entry by entry; what does not fit is named."""

from pathlib import Path

import pytest
import torch

from defcn_ext.checkpoint import Checkpoint, describe
from defcn_ext.checkpoint.convert import ConversionError, convert, target_shapes
from defcn_ext.config import UserError
from defcn_ext.engine.preflight import load_config
from tests.checkpoint import layouts
from tests.checkpoint.layouts import MANY, weights
from tests.tiny import DATE_F, tiny_cfg

CONFIGS = Path(__file__).parents[2] / "configs"
BGR, CAFFE_BGR = [103.53, 116.28, 123.675], [102.9801, 115.9465, 122.7717]
RGB = [123.675, 116.28, 103.53]

# name: entries, their number, base config, keys of the config that are found
RELEASES = {
    "poto": (layouts.defcn(), 322, "Base-POTO", {"DEFCN.NMS": False}),
    "3dmf": (layouts.defcn(kind="3dmf"), 328, "Base-POTO-3DMF-Aux", {"DEFCN.ONE_TO_ONE.MAX_FILTERING.NORM": "GN"}),
    "3dmf_wo_gn": (
        *(layouts.defcn(kind="3dmf_wo_gn"), 326, "Base-POTO-3DMF-Aux"),
        {"DEFCN.ONE_TO_ONE.MAX_FILTERING.NORM": ""},
    ),
    "3dmf_R_101": (layouts.defcn(kind="3dmf", depth=101), 583, "Base-POTO-3DMF-Aux", {"RESNETS.DEPTH": 101}),
    "3dmf_old": (
        *(layouts.defcn(kind="3dmf", p6=2048), 328, "Base-POTO-3DMF-Aux"),
        {"DEFCN.P6_FEATURE": "res5"},
    ),
    "3dmf_crowd": (layouts.defcn(kind="3dmf", classes=1), 328, "Base-POTO-3DMF-Aux", {"DEFCN.NUM_CLASSES": 1}),
    "fcos": (layouts.defcn(MANY, "centerness"), 324, "Base-FCOS-centerness", {"DEFCN.NMS": True}),
    "anchor": (layouts.defcn(kind="anchor"), 322, "Base-Anchor", {"DEFCN.LEVEL_SCALES": False}),
    "cvpods_retinanet": (layouts.cvpods_retinanet(), 306, "Base-DATE-RetinaNet", {"DEFCN.NORM": ""}),
    "date_f": (layouts.date(), 373, "Base-DATE-F", {"DEFCN.CONV_BIAS": False}),
    "date_f_R_101": (layouts.date(depth=101), 679, "Base-DATE-F", {"RESNETS.DEPTH": 101}),
    "date_r": (layouts.date("R"), 371, "Base-DATE-R", {"DEFCN.SHARE_TOWERS": True}),
    "date_f_3dmf": (layouts.date(filtering=True), 379, "Base-DATE-F", {"DEFCN.ONE_TO_ONE.MAX_FILTERING.ENABLED": True}),
    "date_r_unshared": (layouts.date("R", unshared=True), 395, "Base-DATE-R", {"DEFCN.SHARE_TOWERS": False}),
    "date_r_crowd": (layouts.date("R", classes=1), 371, "Base-DATE-R", {"DEFCN.NUM_CLASSES": 1}),
    "o2f": (layouts.o2f(), 389, "Base-O2F", {"DEFCN.ONE_TO_ONE.QUALITY.CONVS": 3, "RESNETS.DEPTH": 50}),
    "o2f_1": (layouts.o2f(convs=1), 381, "Base-O2F", {"DEFCN.ONE_TO_ONE.QUALITY.CONVS": 1}),
    "o2f_2": (layouts.o2f(convs=2), 385, "Base-O2F", {"DEFCN.ONE_TO_ONE.QUALITY.CONVS": 2}),
    "o2f_R_101": (layouts.o2f(depth=101), 695, "Base-O2F", {"RESNETS.DEPTH": 101}),
    "o2f_crowd": (layouts.o2f(classes=1), 389, "Base-O2F", {"DEFCN.TOPK_CANDIDATES_TEST": 5000}),
    "dw_refine": (layouts.dw(), 381, "Base-DW-refine", {"DEFCN.NMS_THRESH_TEST": 0.6}),
    "dw": (layouts.dw(refine=False), 379, "Base-DW", {"DEFCN.ONE_TO_MANY.REFINE.ENABLED": False}),
    "dw_dcn": (
        *(layouts.dw(dcn=True), 411, "Base-DW-refine"),
        {
            "DEFCN.DEFORM_TOWERS": True,
            "RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True],
            "RESNETS.DEFORM_MODULATED": True,
        },
    ),
    "mmdet_fcos": (layouts.mmdet_fcos(), 369, "Base-DATE-FCOS", {"DEFCN.ONE_TO_MANY.BOX_FORM": "exp"}),
    "onenet": (layouts.onenet(), 314, "Base-OneNet", {"DEFCN.P6_FEATURE": "res5", "DEFCN.CONV_BIAS": False}),
}


def value_of(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def run(entries, *args, extras=None, state=None, **kwargs):
    state = weights(entries) if state is None else state
    return convert(Checkpoint("in.pth", state, extras or {}), *args, **kwargs)


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_is_recognised_and_every_entry_lands_where_it_belongs(name):
    entries, count, config, keys = RELEASES[name]
    assert len(entries) == len({x.theirs for x in entries}) == count
    done = run(entries)
    assert Path(done.base) == CONFIGS / f"{config}.yaml"
    for key, value in keys.items():
        assert value_of(done.cfg.MODEL, key) == value, key
    given, kept = weights(entries), [x for x in entries if x.ours]
    assert set(done.model) == {x.ours for x in kept}
    for x in kept:
        assert done.model[x.ours].shape == (x.shape or (1,)), x.ours
        assert done.model[x.ours].flatten()[0] == given[x.theirs].flatten()[0], x.ours
    assert sum(done.dropped.values()) == count - len(kept)


def test_numbers_of_parameters_are_the_papers():
    """80-checkpoints section 1, counted with norms; 30-checkpoints, without."""
    counts = {
        "o2f": (layouts.o2f(), 32_517_402),
        "o2f, CrowdHuman": (layouts.o2f(classes=1), 32_335_307),
        "o2f, R-101": (layouts.o2f(depth=101), 51_509_530),
        "DW, refined": (layouts.dw(), 32_316_130),
        "DW": (layouts.dw(refine=False), 32_297_690),
    }
    for name, (entries, count) in counts.items():
        assert layouts.parameters(entries) == count, name
    state = run(layouts.defcn(kind="3dmf")).model
    assert sum(v.numel() for k, v in state.items() if ".norm." not in k or "backbone" not in k) == 32_834_842
    assert len([k for k in state if k.startswith("backbone.")]) == 281


@pytest.mark.parametrize(
    ("name", "form", "mean", "stride", "detections", "longest"),
    [
        ("3dmf", "BGR", BGR, True, 100, 1333),
        ("3dmf_crowd", "BGR", BGR, True, 500, 1400),
        ("date_f", "BGR", CAFFE_BGR, True, 100, 1333),
        ("o2f", "RGB", RGB, False, 100, 1333),
        ("o2f_crowd", "RGB", RGB, False, 500, 1400),
        ("dw_refine", "RGB", RGB, False, 100, 1333),
        ("onenet", "RGB", RGB, False, 100, 1333),
    ],
)
def test_the_input_is_that_of_the_release(name, form, mean, stride, detections, longest):
    cfg = run(RELEASES[name][0]).cfg
    assert cfg.INPUT.FORMAT == form and list(cfg.MODEL.PIXEL_MEAN) == mean
    assert list(cfg.MODEL.PIXEL_STD) == ([58.395, 57.12, 57.375] if form == "RGB" else [1.0, 1.0, 1.0])
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is stride
    assert cfg.TEST.DETECTIONS_PER_IMAGE == detections and cfg.INPUT.MAX_SIZE_TEST == longest


def test_a_file_that_leads_nowhere_else_is_told_apart_by_its_statistics():
    """o2f is released for RGB; a stem without running means is caffe's."""
    state = weights(layouts.o2f())
    state["backbone.bn1.running_mean"] = torch.zeros(64)
    (note,) = run(None, state=state).notes
    assert note.startswith("WARNING") and "BGR" in note
    assert run(layouts.o2f()).notes == []


def test_inference_drops_the_branch_that_only_trains_and_nothing_else():
    """379 entries = 320 kept + 53 counters + 6 of predictor 1 (30-checkpoints, What to test)."""
    done = run(layouts.date(filtering=True), inference=True)
    assert len(done.model) == 320
    assert done.dropped == {"num_batches_tracked": 53, "branches.one_to_many": 6}
    assert done.cfg.MODEL.DEFCN.INFERENCE_ONLY is True
    unshared = run(layouts.date("R", unshared=True), inference=True)
    assert unshared.dropped == {"num_batches_tracked": 53, "branches.one_to_many": 24 + 4}


def test_a_date_file_made_for_inference_needs_no_second_branch():
    entries = [x for x in layouts.date() if "predictors.1" not in x.theirs]
    done = run(entries)
    assert Path(done.base).name == "Base-DATE-POTO.yaml" and len(done.model) == 373 - 53 - 6


def test_date_with_a_filter_fits_defcn_with_zero_biases():
    """DeFCN's 328 entries = 320 of DATE and 8 zeros."""
    config = str(CONFIGS / "Base-POTO-3DMF.yaml")
    done = run(layouts.date(filtering=True), config=config, inference=True)
    assert len(done.model) == 328
    biases = [f"head.{tower}.{n}.bias" for tower in ("cls_subnet", "bbox_subnet") for n in (0, 3, 6, 9)]
    assert all(torch.equal(done.model[name], torch.zeros(256)) for name in biases)
    assert not any(done.model[name].eq(0).all() for name in done.model if name not in biases)
    # the input belongs to the weights, not to the config
    assert list(done.cfg.MODEL.PIXEL_MEAN) == CAFFE_BGR
    assert any("PIXEL_MEAN" in note and config in note for note in done.notes)


def test_some_tower_biases_without_the_others_are_missing_ones():
    entries = [x for x in layouts.o2f() if x.theirs != "bbox_head.reg_convs.2.conv.bias"]
    with pytest.raises(ConversionError, match=r"missing: head\.bbox_subnet\.6\.bias \(256,\)"):
        run(entries)


@pytest.mark.parametrize("name", ["3dmf", "date_f", "date_r_unshared", "o2f", "dw_dcn", "onenet", "cvpods_retinanet"])
def test_each_entry_left_out_or_without_a_shape_is_an_error(name):
    """Whatever is told by an entry when the model is looked for, nothing but a UserError comes of its absence."""
    entries = [x for x in RELEASES[name][0] if x.ours]
    telling = ("res2.0.conv2.weight", "stem.conv1.weight", "p6.weight", "cls_score.weight", "bbox_pred.weight")
    telling += ("filter.weight", "conv2_offset.weight", "subnet.0.weight", "scales.0.scale", "fpn_lateral4.bias")
    for gone in [x for x in entries if x.ours.endswith(telling)][::3]:
        with pytest.raises(UserError):
            run([x for x in entries if x is not gone])
        with pytest.raises(UserError):
            run(None, state=weights(entries) | {gone.theirs: torch.zeros(7, 1, 1)})


def test_unknown_entries_are_named():
    state = weights(layouts.o2f()) | {"bbox_head.extra.weight": torch.zeros(3, 2), "ema_backbone_conv1": torch.ones(1)}
    with pytest.raises(ConversionError) as caught:
        run(None, state=state)
    assert "in.pth: 2 entries do not fit" in str(caught.value)
    assert "unknown: bbox_head.extra.weight (3, 2)" in str(caught.value)
    assert "unknown: ema_backbone_conv1 (1,)" in str(caught.value)


def test_a_wrong_shape_is_named_with_both_shapes():
    state = weights(layouts.date())
    state["neck.fpn_convs.1.conv.weight"] = torch.zeros(256, 256, 1, 1)
    with pytest.raises(ConversionError) as caught:
        run(None, state=state)
    expected = (
        "of another shape: neck.fpn_convs.1.conv.weight, as backbone.fpn_output4.weight: "
        "(256, 256, 1, 1) in the file, (256, 256, 3, 3) in the model"
    )
    assert expected in str(caught.value)


def test_another_number_of_classes_than_the_configs_is_refused_and_can_be_set():
    config = str(CONFIGS / "Base-POTO-3DMF.yaml")
    entries = layouts.defcn(kind="3dmf", classes=1)
    with pytest.raises(ConversionError, match=r"head\.cls_score\.bias.*\(1,\) in the file, \(80,\).*NUM_CLASSES"):
        run(entries, config=config)
    assert len(run(entries, config=config, opts=["MODEL.DEFCN.NUM_CLASSES", "1"]).model) == 328


def test_p6_of_res5_does_not_fit_a_config_whose_p6_is_of_p5():
    config = str(CONFIGS / "Base-POTO.yaml")
    with pytest.raises(ConversionError, match=r"top_block\.p6\.weight: \(256, 2048, 3, 3\).*P6_FEATURE"):
        run(layouts.defcn(p6=2048), config=config)
    done = run(layouts.defcn(p6=2048))
    assert done.cfg.MODEL.DEFCN.P6_FEATURE == "res5" and any("before February 2021" in note for note in done.notes)


def test_two_names_of_one_entry_are_refused():
    state = weights(layouts.dw(dcn=True))
    state["backbone.layer2.0.conv2_offset.bias"] = torch.zeros(27)
    with pytest.raises(UserError, match="would both become backbone.bottom_up.res3.0.conv2_offset.bias"):
        run(None, state=state)


def test_fcos_variants_of_mmdetection_are_told_by_the_config_in_the_file():
    text = "model = dict(bbox_head=dict(type='FCOSHead', norm_on_bbox=True, centerness_on_reg=True), "
    text += "test_cfg=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.55), max_per_img=100))"
    done = run(layouts.mmdet_fcos(), extras={"meta": {"config": text}})
    branch = done.cfg.MODEL.DEFCN.ONE_TO_MANY
    assert (branch.BOX_FORM, branch.CENTERNESS, branch.CENTERNESS_SCORE) == ("relu", "reg", "product")
    assert done.cfg.MODEL.DEFCN.NMS_THRESH_TEST == 0.55 and done.cfg.MODEL.DEFCN.NMS_CLIPPED
    assert not any("do not tell" in note for note in done.notes)
    assert any("do not tell" in note for note in run(layouts.mmdet_fcos()).notes)


def test_dual_weighting_is_not_taken_for_fcos():
    """The same names but for the prior; the extra map multiplies the scores and is no centerness."""
    done = run(layouts.dw(refine=False))
    assert f"{MANY}filter.weight" in done.model and f"{MANY}centerness.weight" not in done.model
    done = run([x for x in layouts.mmdet_fcos(bias=True)])
    assert f"{MANY}centerness.weight" in done.model and done.cfg.MODEL.DEFCN.CONV_BIAS is True


def test_a_trained_prior_of_dual_weighting_is_kept():
    state = weights(layouts.dw())
    state["bbox_head.center_prior.sigma"] = torch.full((80, 2), 1.2)
    done = run(None, state=state)
    assert done.cfg.MODEL.DEFCN.ONE_TO_MANY.CLASS_PRIOR and any("kept: CLASS_PRIOR" in note for note in done.notes)
    assert (done.model[f"{MANY}center_prior.sigma"] == 1.2).all() and (
        done.model[f"{MANY}center_prior.mean"] == 0
    ).all()
    assert "center_prior.sigma" not in done.dropped
    assert not run(layouts.dw()).cfg.MODEL.DEFCN.ONE_TO_MANY.CLASS_PRIOR, "the release's own needs no entries"
    with pytest.raises(ConversionError, match=r"center_prior\.mean.*set CLASS_PRIOR of the branch to True"):
        run(None, state=state, config=str(CONFIGS / "Base-DW-refine.yaml"))
    state["bbox_head.center_prior.sigma"] = torch.zeros(80, 2)
    with pytest.raises(ConversionError, match=r"not above 0: bbox_head\.center_prior\.sigma"):
        run(None, state=state)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("bbox_head.controller.weight", "CondInst"),
        ("bbox_head.gfl_cls.weight", "GFL"),
        ("roi_head.bbox_head.fc_cls.weight", "another kind"),
        ("backbone.stages.0.blocks.0.norm1.weight", "other than a ResNet"),
        ("res2.0.conv1.weight", "no code base known"),
        ("backbone.bottom_up.stem.conv1.weight", "Detectron2's names already"),
        ("conv1_w", "Caffe2's names already"),
    ],
)
def test_weights_of_other_models_are_refused_with_what_they_are(key, message):
    with pytest.raises(UserError, match=f"in.pth: .*{message}"):
        run(None, state={key: torch.zeros(1)})


def test_from_must_be_what_the_names_say():
    with pytest.raises(UserError, match="--from cvpods, but its names are those of mmdet"):
        run(layouts.o2f(), "cvpods")
    assert run(layouts.o2f(), "mmdet").source == "mmdet"


@pytest.mark.parametrize("second", ["F", "R"])
def test_crowdhuman_is_trained_by_the_cost_that_its_configs_have(second):
    """20-date: the release's CrowdHuman configs say OneNet's cost, its COCO ones POTO."""
    crowd, coco = (run(layouts.date(second, classes=count)) for count in (1, 80))
    trained = load_config(str(CONFIGS / f"CrowdHuman/date_{second.lower()}_R_50_30k.yaml"), ["MODEL.DEVICE", "cpu"])
    assert crowd.cfg.MODEL.DEFCN.ONE_TO_ONE.RULE == trained.MODEL.DEFCN.ONE_TO_ONE.RULE
    assert crowd.cfg.MODEL.DEFCN.ONE_TO_ONE.RULE.startswith("MinCost(")
    assert coco.cfg.MODEL.DEFCN.ONE_TO_ONE.RULE.startswith("POTO(")


@pytest.mark.parametrize(
    ("opts", "changed"),
    [
        (["NUM_CONVS", 2], {"MODEL.DEFCN.NUM_CONVS": 2}),
        (["NUM_CONVS", 1, "NORM", ""], {"MODEL.DEFCN.NUM_CONVS": 1, "MODEL.DEFCN.NORM": ""}),
        (["NUM_CONVS", 6, "CONV_BIAS", False], {"MODEL.DEFCN.NUM_CONVS": 6, "MODEL.DEFCN.CONV_BIAS": False}),
    ],
)
@pytest.mark.parametrize("width", [64, 256])
def test_numbers_of_convs_and_widths_are_those_of_the_shapes(opts, changed, width):
    """A cvpods POTO of another size, made by renaming a model of ours."""
    options = [x if i % 2 else f"MODEL.DEFCN.{x}" for i, x in enumerate(opts)]
    sizes = ["MODEL.FPN.OUT_CHANNELS", width, "MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS"]
    cfg = tiny_cfg(*options, *sizes, 64)
    expected = target_shapes(cfg)
    state = {k.replace("branches.one_to_one.", "head."): torch.zeros(()).expand(v) for k, v in expected.items()}
    done = run(None, "cvpods", state=state)
    assert {name: tuple(value.shape) for name, value in done.model.items()} == expected
    assert all(value_of(done.cfg, key) == value for key, value in changed.items())
    assert done.cfg.MODEL.FPN.OUT_CHANNELS == width and done.cfg.MODEL.RESNETS.STEM_OUT_CHANNELS == 32


def test_a_checkpoint_of_ours_needs_no_more_than_its_config():
    """Without the optimizer, and on request without the branches that only train."""
    cfg = tiny_cfg(*DATE_F)
    state = {name: torch.zeros(()).expand(shape) for name, shape in target_shapes(cfg).items()}
    extras = {**describe(cfg), "thing_classes": ["a", "b", "c"], "trainer": {}, "iteration": 9}
    whole, small = (run(None, state=state, extras=extras, inference=inference) for inference in (False, True))
    assert whole.model.keys() == state.keys() and whole.cfg.MODEL.DEFCN == cfg.MODEL.DEFCN
    assert whole.classes == ["a", "b", "c"] and whole.notes == ["left out: iteration, trainer"]
    assert small.model.keys() == target_shapes(tiny_cfg(*DATE_F, "MODEL.DEFCN.INFERENCE_ONLY", True)).keys()
    assert small.dropped == {"branches.one_to_many": len(state) - len(small.model)}
    with pytest.raises(UserError, match="without their config: give it with --config"):
        run(None, state=state)
    state.pop("head.scales.0.scale")
    with pytest.raises(ConversionError, match=r"missing: head\.scales\.0\.scale"):
        run(None, state=state, extras=extras)


@pytest.mark.parametrize(
    "extras",
    [
        {"meta": {"CLASSES": ("person",)}},
        {"meta": {"dataset_meta": {"classes": ("person",)}}},
        {"meta": {"classes": ["person"]}},
        {"thing_classes": ["person"]},
    ],
)
def test_the_names_of_the_classes_come_from_the_file(extras):
    assert run(layouts.o2f(classes=1), extras=extras).classes == ["person"]
    assert run(layouts.o2f(classes=80), extras=extras).classes is None, "of another number"
