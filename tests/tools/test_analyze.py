import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

from defcn_ext.benchmarks import analysis
from defcn_ext.benchmarks.costs import Predictions, measure
from defcn_ext.tools import analyze
from detectron2.modeling import build_model
from tests.tiny import ALL, tiny_cfg

CONFIGS = Path(__file__).parents[2] / "configs"
SIZE = (128, 128)
CELLS = [16 * 16, 8 * 8, 4 * 4, 2 * 2, 1]
R = sum(CELLS)
FILTER = ("MODEL.DEFCN.ONE_TO_ONE.MAX_FILTERING.ENABLED", True)
NOT_SHARED = ("MODEL.DEFCN.SHARE_TOWERS", False)
ONLY_SECOND = ("MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY"])


def build(*opts):
    return build_model(tiny_cfg(*opts))


def write(folder, *opts):
    path = folder / "tiny.yaml"
    path.write_text(tiny_cfg(*opts).dump())
    return str(path)


def by_hand_backbone():
    """ResNet-18 of 128 x 128: a conv, two factors an element of its norm, one an element of its ReLU."""
    stem = 64 * 64
    total = 7 * 7 * 3 * 64 * stem + (2 + 1) * 64 * stem + 64 * stem  # conv, norm and ReLU, what max pooling reads
    before = 64
    for channels, cells in [(64, 32 * 32), (128, 16 * 16), (256, 8 * 8), (512, 4 * 4)]:
        total += 9 * (before + 3 * channels) * channels * cells + 4 * (2 + 1) * channels * cells
        if before != channels:  # the shortcut has a norm and no ReLU
            total += before * channels * cells + 2 * channels * cells
        before = channels
    return total


def by_hand_fpn():
    lateral = sum(channels * 64 * cells for channels, cells in zip((128, 256, 512), CELLS))
    output = 9 * 64 * 64 * R  # P3 to P5, and P6 and P7
    bias = 64 * (sum(CELLS[:3]) + R)
    relu = 64 * CELLS[3]  # before P7
    return lateral + output + bias + relu


def by_hand_towers(num_convs=1):
    """Two towers; conv with bias, GN, ReLU."""
    return 2 * num_convs * R * (9 * 64 * 64 + 64 + 2 * 64 + 64)


def by_hand_predictor(channels):
    return R * (9 * 64 * channels + channels)


def test_parts_and_total_are_those_computed_by_hand():
    cost = measure(build(*ALL["fcos_centerness"]), SIZE)
    flops = {name: part["flops"] for name, part in cost.parts.items()}
    assert flops == {
        "backbone": by_hand_backbone(),
        "fpn": by_hand_fpn(),
        "towers": by_hand_towers(),
        "one_to_many": by_hand_predictor(3 + 4 + 1) + 4 * R,  # class, box, centerness; the ReLU of the distances
    }
    assert cost.flops == sum(flops.values()) == sum(cost.operators.values())


def test_max_filtering_is_a_part_of_its_own_and_the_auxiliary_loss_is_free():
    cost = measure(build(*ALL["poto_3dmf_aux"]), SIZE)
    conv_norm_relu_pool = R * (9 * 64 * 64 + 64 + 2 * 64 + 64 + 64)
    assert cost.parts["one_to_one 3DMF"] == {
        "parameters": 9 * 64 * 64 + 64 + 2 * 64 + 9 * 64 + 1,
        "flops": conv_norm_relu_pool + by_hand_predictor(1),
    }
    assert cost.parts["one_to_one"]["flops"] == by_hand_predictor(3 + 4) + 4 * R
    assert cost.parts["aux"] == {"parameters": 0, "flops": 0}
    assert cost.flops == sum(part["flops"] for part in cost.parts.values())
    assert cost.parameters == sum(part["parameters"] for part in cost.parts.values())
    assert {"upsample_nearest2d", "upsample_bilinear2d", "add", "mul"} <= set(cost.not_counted)


def test_towers_of_its_own_are_a_part_of_the_branch():
    model = build(*ALL["dual"], *NOT_SHARED)
    parts = measure(model, SIZE).parts
    assert parts["one_to_many towers"]["flops"] == parts["towers"]["flops"] == by_hand_towers()
    assert parts["towers"]["parameters"] - parts["one_to_many towers"]["parameters"] == 5  # the levels' factors


@pytest.mark.parametrize("name", ["poto_3dmf_aux", "dual"])
def test_the_other_counter_and_the_activations_are_those_of_fvcore(name):
    model = build(*ALL[name]).eval()
    cost = measure(model, SIZE, "fvcore")
    inputs = torch.zeros(1, 3, *SIZE)
    with torch.no_grad():
        assert cost.flops == FlopCountAnalysis(Predictions(model), inputs).total()
        assert cost.activations == ActivationCountAnalysis(Predictions(model), inputs).total()
    assert "max_pool2d" in cost.not_counted


def test_frozen_layers_are_not_trainable():
    cost = measure(build("MODEL.BACKBONE.FREEZE_AT", 2), SIZE)
    assert cost.parameters - cost.trainable == 7 * 7 * 3 * 64 + 4 * 9 * 64 * 64


@pytest.mark.parametrize("extra", [NOT_SHARED, FILTER])
def test_the_second_branch_adds_nothing_at_inference(tmp_path, extra):
    config = write(tmp_path, *ALL["dual"], *extra)
    alone = ["MODEL.DEFCN.BRANCHES", "['ONE_TO_ONE']"]
    training, inference = analysis.analyze([config], (64, 64), "paper", [])["detectors"]
    without = analysis.build_detector(config, analysis.load_detector_config(config, alone), False)
    assert asdict(measure(without, (64, 64))).items() <= inference.items()
    assert training["parameters"] > inference["parameters"] and training["flops"] > inference["flops"]
    added = [part for name, part in training["parts"].items() if name.startswith("one_to_many")]
    assert training["flops"] - inference["flops"] == sum(part["flops"] for part in added)
    assert "one_to_many" not in inference["parts"]


def test_json_pads_the_input_and_gives_exact_numbers(tmp_path, capsys):
    config = write(tmp_path, *ALL["dual"])
    analyze.main([config, "--json", "--size", "100", "97", "MODEL.DEFCN.NUM_CLASSES", "5"])
    result = json.loads(capsys.readouterr().out)
    assert result["counter"] == "paper"
    assert [(x["config"], x["pass"], x["size"]) for x in result["detectors"]] == [
        (config, "training", [128, 128]),
        (config, "inference", [128, 128]),
    ]
    training, inference = result["detectors"]
    assert inference["parts"]["one_to_one"]["flops"] == by_hand_predictor(5 + 4) + 4 * R
    assert training["flops"] - inference["flops"] == by_hand_predictor(5 + 4) + 4 * R


def test_tables(tmp_path, capsys):
    config = write(tmp_path, *ALL["poto"])
    analyze.main([config, "--size", "128", "128", "--by-module"])
    out = capsys.readouterr().out
    total = by_hand_backbone() + by_hand_fpn() + by_hand_towers() + by_hand_predictor(7) + 4 * R
    assert f"| {config} | inference | 128 x 128 |" in out and f"| {total / 1e9:.2f} |" in out
    towers = by_hand_towers()
    assert f"| inference | towers | 74,117 | {towers / 1e9:.2f} | {towers / total:.1%} |" in out
    assert out.rstrip().splitlines()[-1].startswith("Counter: paper. Not counted: add, ")


@pytest.mark.parametrize(
    "words, message",
    [
        (["missing.yaml"], "missing.yaml: no such file"),
        (["{config}", "MODEL.DEFCN.NUM_CLASES", "3"], "unknown config key MODEL.DEFCN.NUM_CLASES"),
        (["{config}", "MODEL.DEFCN.BRANCHES", "['POTTO']"], "MODEL.DEFCN.BRANCHES: unknown branch 'POTTO'"),
        (["{config}", "MODEL.META_ARCHITECTURE", "RetinaNet"], "MODEL.META_ARCHITECTURE RetinaNet: only DeFCN"),
        (["{config}", "MODEL.DEFCN.INFERENCE_ONLY", "True"], "MODEL.DEFCN.INFERENCE_ONLY is set by this tool"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, words, message):
    config = write(tmp_path)
    with pytest.raises(SystemExit) as stop:
        analyze.main([word.format(config=config) for word in words])
    text = str(stop.value)
    assert text.startswith("analyze: error: ") and message in text and "\n" not in text


@pytest.mark.parametrize(
    "words, message",
    [
        (["configs/Base-OneNet"], "expected a config"),
        (["a.yaml", "MODEL.X"], "need a value for each key"),
        (["a.yaml", "--size", "0", "800"], "must be positive"),
    ],
)
def test_a_wrong_command_line_is_refused(capsys, words, message):
    with pytest.raises(SystemExit):
        analyze.main(words)
    assert message in capsys.readouterr().err


POOLED_IN_3D = 256 * (2 * 16000 + 3 * 4000 + 3 * 1000 + 3 * 260 + 2 * 70) - 256 * 21330


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, inference, opts, trainable, giga, released_extra",
    [
        ("DATE-F", True, (), 32_017_497, 200.50, 0),
        ("DATE-F", False, ONLY_SECOND, 32_019_802, 200.55, 0),  # FCOS
        ("DATE-R", False, ONLY_SECOND, 33_566_457, 233.54, 0),  # RetinaNet
        ("DATE-F", False, (), 32_213_422, 204.68, 0),
        ("DATE-R", False, (), 33_760_077, 237.67, 0),
        ("DATE-R", False, NOT_SHARED, 38_482_765, 338.44, 0),
        # The released layer pools the stack of up to three levels in 3D, ours one level in 2D.
        ("DATE-F", True, FILTER, 32_610_394, 213.16, POOLED_IN_3D),
        ("DATE-F", False, FILTER, 32_806_319, 217.34, POOLED_IN_3D),
    ],
)
def test_costs_of_the_date_paper(name, inference, opts, trainable, giga, released_extra):
    """The paper's tables, and re-runs of its released tool, 1280 x 800."""
    changes = [word if isinstance(word, str) else str(word) for word in opts]
    config = str(CONFIGS / f"Base-{name}.yaml")
    model = analysis.build_detector(config, analysis.load_detector_config(config, changes), inference)
    cost = measure(model, (1280, 800))
    assert cost.trainable == trainable
    assert f"{(cost.flops + released_extra) / 1e9:.2f}" == f"{giga:.2f}"
    assert cost.flops / 1e9 == pytest.approx(giga, rel=1e-4)
