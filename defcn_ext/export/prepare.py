"""A detector made ready for its graph to be recorded, once for all formats."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn

import defcn_ext
from defcn_ext.branches import Branch
from defcn_ext.config import UserError
from defcn_ext.deploy.metadata import ModelMetadata
from defcn_ext.layers.towers import DeformConv3x3
from defcn_ext.meta_arch import DeFCN

from .graph import BoxGraph, End, small_predictions
from .options import ExportOptions, Origin, weights_digest

EXAMPLE = (200, 300)  # pixels, where any size will do: such that no level is a single cell
PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "openvino")


@dataclass(frozen=True)
class Prepared:
    """What every format is written from.

    Attributes:
        graph: the module to record.
        example: (N, C, H, W) images that fit it.
        options: what the export is asked for.
        metadata: what the file will say of itself.
    """

    graph: BoxGraph
    example: Tensor
    options: ExportOptions
    metadata: ModelMetadata


def prepare(model: nn.Module, options: ExportOptions, origin: Origin) -> Prepared:
    """A copy of the detector on the CPU, without branches that only train, that ends in boxes.

    Raises:
        UserError: it is none that can be exported so.
    """
    if not isinstance(model, DeFCN):
        raise UserError(f"{type(model).__name__} cannot be exported: only MODEL.META_ARCHITECTURE 'DeFCN' can")
    if model.nms and not options.with_nms:
        raise UserError("MODEL.DEFCN.NMS is set: the detector needs NMS, which not every runtime has; give --with-nms")
    if any(isinstance(x, DeformConv3x3) for x in model.modules()):
        raise UserError("MODEL.DEFCN.DEFORM_TOWERS: few runtimes have deformable convolutions; it cannot be exported")
    lean = _lean_copy(model)
    end = End.of(lean, top_k=options.top_k, one_class=options.one_class, nms=options.with_nms)
    height, width = options.size or EXAMPLE
    # two images where any number will do: torch takes one for a constant
    example = torch.zeros(options.batch or 2, len(lean.pixel_mean), height, width)
    graph = BoxGraph(lean, end).eval().requires_grad_(False)
    return Prepared(graph, example, options, _metadata(graph, model, options, origin))


def _lean_copy(model: DeFCN) -> DeFCN:
    lean = copy.deepcopy(model).cpu().float().eval()
    for name in list(lean.branches):
        if not lean.needs_to_detect(f"branches.{name}"):
            del lean.branches[name]
    return lean


def _metadata(graph: BoxGraph, model: DeFCN, options: ExportOptions, origin: Origin) -> ModelMetadata:
    end = graph.end
    return ModelMetadata(
        class_names=tuple(origin.class_names),
        category_ids=tuple(origin.category_ids),
        num_classes=model.num_classes,
        input="image" if options.preprocess else "images",
        channel_order=model.input_format,
        pixel_mean=tuple(model.pixel_mean.flatten().tolist()),
        pixel_std=tuple(model.pixel_std.flatten().tolist()),
        size=options.size,
        batch=options.batch,
        resize=origin.resize,
        boxes=f"x1, y1, x2, y2 in pixels of {'the image' if options.preprocess else 'images'}, inside it",
        score=_score_formula(graph),
        score_thresh=end.score_thresh,
        top_k=end.top_k,
        per_level=end.per_level,
        one_class=end.one_class,
        nms=model.inference.nms_thresh if end.nms else None,
        precision="fp32",
        config_digest=origin.config_digest,
        weights_digest=weights_digest(model),
        made_with={"defcn_ext": defcn_ext.__version__, **_versions()},
    )


def _score_formula(graph: BoxGraph) -> str:
    """What the predictions consist of."""
    predictions = small_predictions(graph.model)
    formula = "sigmoid(class)"
    if predictions.objectness is not None:
        formula += " * sigmoid(objectness)"
    if predictions.centerness is None:
        return formula
    product = f"{formula} * sigmoid(centerness)"
    return f"sqrt({product})" if _takes_root(graph.branch) else product


def _takes_root(branch: Branch) -> bool:
    quarter = branch.final_scores(torch.tensor(0.5), torch.zeros(()))
    return bool(quarter > 0.25)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
