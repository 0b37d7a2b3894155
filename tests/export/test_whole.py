"""A detector as a file: written only when it equals the model, and refused in one line before the export starts."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from defcn_ext.config import UserError
from defcn_ext.export import ExportOptions, Origin, ParityError, export_detector, formats
from defcn_ext.export.prepare import prepare
from tests.export.test_graph import FAMILIES, NMS
from tests.inference.test_tracing import detector
from tests.tiny import mostly_slow

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'defcn_ext[export]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'defcn_ext[export]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'defcn_ext[export]'")

from defcn_ext.export.onnx_graph import to_onnx  # noqa: E402
from defcn_ext.export.operators import KNOWN, check_operators, operators  # noqa: E402

SIZE = (96, 128)
ORIGIN = Origin(("red", "green", "blue"), (128, 200), "the config")


def noise(*sizes):
    rng = np.random.default_rng(3)
    contrasts = [20, 60, 120, 255]
    return [rng.integers(0, contrasts[i % 4], size=(*size, 3), dtype=np.uint8) for i, size in enumerate(sizes)]


def exported(name, path, tell=None, pictures=((96, 128), (64, 160)), **options):
    nms = name in NMS
    model = detector(name, "NMS", nms).model
    given = {"tell": tell} if tell else {}
    asked = ExportOptions(with_nms=nms, **options)
    return export_detector(model, path, asked, origin=ORIGIN, pictures=noise(*pictures), **given)


@pytest.mark.parametrize("name", mostly_slow([x for x in FAMILIES if x not in NMS], fast=("poto_3dmf",)))
def test_the_file_says_what_the_model_says(name, tmp_path):
    """Of any size and batch, recorded by TorchScript, which takes a tenth of the time of torch.export."""
    said = []
    done = exported(name, tmp_path / "model.onnx", said.append, exporter="script")
    assert done.parity.images == 4 and done.parity.detections > 100
    assert done.parity.boxes < 0.01 and done.parity.scores < 1e-4 and done.parity.lacking == 0
    assert [x.name for x in tmp_path.iterdir()] == ["model.onnx"]
    assert "detections" in said[-1]
    content = onnx.load(tmp_path / "model.onnx")
    shapes = {
        x.name: [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim]
        for x in (*content.graph.input, *content.graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, "height", "width"],
        "boxes": ["batch", 100, 4],
        "scores": ["batch", 100],
        "labels": ["batch", 100],
    }
    assert {x.name: x.type.tensor_type.elem_type for x in content.graph.output}["labels"] == onnx.TensorProto.INT32
    description = json.loads({x.key: x.value for x in content.metadata_props}["defcn_ext"])
    assert description["version"] == 1 and description["class_names"] == ["red", "green", "blue"]
    assert description["channel_order"] == "BGR" and len(description["weights_digest"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_by_torch_export_too(name, tmp_path):
    """Of one size: the proofs about sizes that torch.export makes for any take minutes."""
    pictures = [SIZE] * 3 if name != "dw_refine" else [SIZE] * 2
    done = exported(name, tmp_path / "model.onnx", exporter="export", size=SIZE, pictures=pictures)
    assert done.parity.detections > 50 and done.parity.lacking == 0


@pytest.mark.slow
def test_of_any_size_by_torch_export(tmp_path):
    done = exported("poto_3dmf", tmp_path / "model.onnx", exporter="export")
    assert done.parity.boxes < 0.01 and done.parity.lacking == 0


@pytest.mark.slow
def test_as_a_program_of_torch(tmp_path):
    done = exported("date_f", tmp_path / "model.pt2", format="torch", size=SIZE, batch=2, pictures=[SIZE] * 2)
    assert done.parity.boxes == 0 and done.parity.detections > 50
    extra = {"defcn_ext": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["defcn_ext"])["batch"] == 2


@pytest.mark.slow
def test_for_openvino(tmp_path):
    pytest.importorskip("openvino", reason="needs openvino: pip install 'defcn_ext[export]'")
    done = exported("o2f", tmp_path / "model.xml", format="openvino", exporter="script")
    assert done.parity.boxes < 0.05 and done.parity.lacking == 0
    assert sorted(x.name for x in tmp_path.iterdir()) == ["model.bin", "model.xml"]


class Wrong(formats.Format):
    """Writes a file that finds one box too few in every image."""

    suffix = ".wrong"

    def write(self, prepared, path):
        self.graph = prepared.graph
        path.write_text("wrong")

    def open(self, path):
        def run(images):
            with torch.no_grad():
                boxes, scores, labels = (x.numpy() for x in self.graph(torch.from_numpy(images)))
            scores[:, 3] = 0
            return boxes, scores, labels

        return run


def test_a_file_that_is_not_the_model_does_not_appear(tmp_path, monkeypatch):
    monkeypatch.setitem(formats.FORMATS, "wrong", Wrong)
    (tmp_path / "model.wrong").write_text("of yesterday")
    with pytest.raises(ParityError, match="the file is not the model: 2 images, .* 2 without a partner"):
        exported("poto", tmp_path / "model.wrong", format="wrong", pictures=[SIZE])
    assert [(x.name, x.read_text()) for x in tmp_path.iterdir()] == [("model.wrong", "of yesterday")]


@pytest.mark.parametrize(
    "name, options, output, message",
    [
        ("poto", {"format": "tflite"}, "m.onnx", "--format: unknown value 'tflite'; known: onnx"),
        ("poto", {}, "m.pt", r"--output .*m.pt: a file of format onnx is called \*.onnx"),
        ("poto", {}, "no/m.onnx", "no folder"),
        ("fcos", {}, "m.onnx", "MODEL.DEFCN.NMS is set: .* give --with-nms"),
        ("poto", {"format": "torch", "with_nms": True}, "m.pt2", "--with-nms: not for format torch; take onnx"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_export_starts(name, options, output, message, tmp_path):
    model = detector(name, "NMS", name == "fcos").model
    with pytest.raises(UserError, match=message):
        export_detector(model, tmp_path / output, ExportOptions(**options))
    assert list(tmp_path.iterdir()) == []


def test_a_format_whose_package_is_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(formats.FORMATS["onnx"], "packages", ("onnx", "no_such_package"))
    with pytest.raises(UserError, match=r"needs no_such_package: pip install 'defcn_ext\[export\]'"):
        exported("poto", tmp_path / "m.onnx")


def test_other_models_and_deformable_towers_are_refused():
    with pytest.raises(UserError, match="Linear cannot be exported"):
        prepare(nn.Linear(1, 1), ExportOptions(), Origin())
    with pytest.raises(UserError, match="DEFORM_TOWERS"):
        prepare(detector("poto", "DEFORM_TOWERS", True).model, ExportOptions(), Origin())


@pytest.mark.parametrize(
    "options",
    [{"size": (8, 64)}, {"batch": 0}, {"exporter": "x"}, {"preprocess": True, "batch": 1}],
    ids=str,
)
def test_options_without_sense_are_refused(options):
    with pytest.raises(UserError, match="--"):
        ExportOptions(**options)


def test_branches_that_only_train_are_left_out_and_the_model_stays_as_it_is():
    model = detector("date_r").model.train()
    prepared = prepare(model, ExportOptions(top_k=7), ORIGIN)
    assert list(prepared.graph.model.branches) == ["one_to_one"] and len(model.branches) == 2 and model.training
    assert prepared.metadata.top_k == 7 and prepared.metadata.nms is None
    assert prepared.metadata.score == "sigmoid(class)"


@pytest.mark.parametrize(
    "name, formula",
    [
        ("o2f", "sigmoid(class) * sigmoid(objectness)"),
        ("fcos_centerness", "sqrt(sigmoid(class) * sigmoid(centerness))"),
    ],
)
def test_the_file_says_how_a_score_is_made(name, formula):
    nms = name in NMS
    options = ExportOptions(with_nms=nms)
    assert prepare(detector(name, "NMS", nms).model, options, ORIGIN).metadata.score == formula


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, exporter, more",
    [
        *((name, exporter, set()) for name in ("poto_3dmf", "date_r", "o2f") for exporter in ("script", "export")),
        ("dw_refine", "script", {"GridSample"}),
        ("fcos", "export", {"NonMaxSuppression", "ScatterND"}),
    ],
)
def test_the_operators_of_a_file_are_a_list_that_may_only_shrink(name, exporter, more):
    """Every export is refused that has others."""
    model = detector(name, "NMS", name == "fcos").model
    options = ExportOptions(with_nms=name == "fcos", size=SIZE, exporter=exporter)
    found = operators(to_onnx(prepare(model, options, ORIGIN)))
    assert found - KNOWN == more


def test_an_operator_that_a_runtime_may_lack_is_refused():
    graph = onnx.parser.parse_graph("g (float[n] x) => (int64[2, m] y) { y = NonZero(x) }")
    prepared = prepare(detector("poto").model, ExportOptions(), ORIGIN)
    with pytest.raises(UserError, match="its graph has NonZero, which not every runtime knows"):
        check_operators(onnx.helper.make_model(graph), prepared)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["poto_3dmf", "date_r"])
def test_with_the_resizing_inside_it_says_what_the_model_says_of_the_picture(name, tmp_path):
    """A grey level of a few pixels moves scores a little."""
    sizes = [(300, 400), (77, 90), (500, 260)]
    model = detector(name, contrast=0.1).model
    options = ExportOptions(preprocess=True, exporter="script")
    done = export_detector(model, tmp_path / "m.onnx", options, origin=ORIGIN, pictures=noise(*sizes))
    assert done.parity.images == 3 and done.metadata.input == "image"
