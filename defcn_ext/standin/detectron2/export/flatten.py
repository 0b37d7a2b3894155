"""Between what models take and return (dicts, lists, Instances) and the tuples of tensors that a graph has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from detectron2.layers.wrappers import shapes_to_tensor
from detectron2.structures import Boxes, Instances, ROIMasks

__all__ = ["TracingAdapter", "flatten_to_tuple"]


@dataclass(frozen=True)
class Schema:
    """How an object was taken apart. Calling it with the parts, in order, puts an equal object together.

    Attributes:
        kind: "leaf", "list", "tuple", "dict", "instances", "boxes" or "masks".
        parts: schemas of what is inside.
        keys: of a dict or of the fields of instances.
    """

    kind: str
    parts: tuple[Schema, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of leaves."""
        if self.kind == "leaf":
            return 1
        return sum(part.size for part in self.parts) + (self.kind == "instances")  # the image size is a leaf too

    def __call__(self, values: tuple[Any, ...]) -> Any:
        """
        Raises:
            ValueError: there are not as many values as leaves.
        """
        if len(values) != self.size:
            raise ValueError(f"a structure of {self.size} values, got {len(values)}")
        if self.kind == "leaf":
            return values[0]
        inside, start = [], 0
        for part in self.parts:
            inside.append(part(values[start : start + part.size]))
            start += part.size
        if self.kind == "instances":
            return Instances(values[-1], **dict(zip(self.keys, inside)))
        if self.kind == "dict":
            return dict(zip(self.keys, inside))
        return {"list": list, "tuple": tuple, "boxes": _only(Boxes), "masks": _only(ROIMasks)}[self.kind](inside)


def _only(kind: Callable) -> Callable:
    return lambda inside: kind(inside[0])


def flatten_to_tuple(obj: Any) -> tuple[tuple[Any, ...], Schema]:
    """All leaves of nested lists, tuples, dicts, Instances, Boxes and ROIMasks, in order, and how to put them back.

    What is in a dict, and the fields of Instances, come sorted by name, so that a graph does not depend on who set what
    first. `KeyError` for a dict whose keys are not all texts.

    The size of the image of Instances becomes a tensor (2,), so that it can be an output of a graph. What is none of
    these, such as a number or a text, is a leaf as well.
    """
    if isinstance(obj, (list, tuple)):
        return _flatten("list" if isinstance(obj, list) else "tuple", obj)
    if isinstance(obj, Mapping):
        return _flatten_by_name("dict", obj)
    if isinstance(obj, Instances):
        leaves, schema = _flatten_by_name("instances", obj.get_fields())
        size = obj.image_size
        return (*leaves, size if isinstance(size, Tensor) else shapes_to_tensor(size)), schema
    if isinstance(obj, (Boxes, ROIMasks)):
        return _flatten("boxes" if isinstance(obj, Boxes) else "masks", [obj.tensor])
    return (obj,), Schema("leaf")


def _flatten_by_name(kind: str, fields: Mapping[str, Any]) -> tuple[tuple[Any, ...], Schema]:
    others = [name for name in fields if not isinstance(name, str)]
    if others:
        raise KeyError(f"only dicts with texts as keys can be taken apart, got the key {others[0]!r}")
    names = tuple(sorted(fields))
    return _flatten(kind, [fields[name] for name in names], names)


def _flatten(kind: str, objects: Any, keys: tuple[str, ...] = ()) -> tuple[tuple[Any, ...], Schema]:
    flat = [flatten_to_tuple(obj) for obj in objects]
    leaves = tuple(leaf for leaves, _ in flat for leaf in leaves)
    return leaves, Schema(kind, tuple(schema for _, schema in flat), keys)


class TracingAdapter(nn.Module):
    """A model that takes and returns tensors only, so that `torch.jit.trace` and ONNX can record it.

        adapter = TracingAdapter(model, inputs)
        traced = torch.jit.trace(adapter, adapter.flattened_inputs)
        outputs = adapter.outputs_schema(traced(*adapter.flattened_inputs))

    Attributes:
        flattened_inputs: the tensors of the inputs, in order.
        inputs_schema: puts arguments of `forward` together to what the model takes.
        outputs_schema: puts what `forward` returned together to what the model returned; None before the first call.
            Of Instances the image size comes back as a tensor (2,).
    """

    def __init__(
        self, model: nn.Module, inputs: Any, inference_func: Callable | None = None, allow_non_tensor: bool = False
    ):
        """
        Args:
            model: for inference.
            inputs: what to call it with; a tuple if there are several arguments.
            inference_func: called with the model and its inputs in the model's place.
            allow_non_tensor: inputs may hold other things than tensors, which stay as they are, and outputs that are no
                tensors are dropped. The adapter can then be called with its own `flattened_inputs` only.

        Raises:
            ValueError: inputs hold other things than tensors, and may not.
        """
        super().__init__()
        self.model = model.module if isinstance(model, (DistributedDataParallel, DataParallel)) else model
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.allow_non_tensor = allow_non_tensor
        self.inference_func = inference_func or (lambda model, *inputs: model(*inputs))
        leaves, schema = flatten_to_tuple(self.inputs)
        self.flattened_inputs = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        if others and not allow_non_tensor:
            raise ValueError(f"TracingAdapter: inputs must hold tensors only, got {others[0]!r}")
        self.inputs_schema = None if others else schema
        self.outputs_schema: Schema | None = None

    @torch.no_grad()
    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        """The tensors of what the model returns for inputs of these tensors.

        Raises:
            ValueError: other tensors than `flattened_inputs` where those were not all that the model got; or an output
                that is no tensor.
            AssertionError: the outputs have another structure than before.
        """
        outputs = self.inference_func(self.model, *self._inputs_of(args))
        leaves, schema = flatten_to_tuple(outputs)
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        if len(tensors) < len(leaves):
            if not self.allow_non_tensor:
                other = next(leaf for leaf in leaves if not isinstance(leaf, Tensor))
                raise ValueError(f"TracingAdapter: outputs must hold tensors only, got {other!r}")
            self.outputs_schema = None
            return tensors
        assert self.outputs_schema in (None, schema), "TracingAdapter: the outputs have another structure than before"
        self.outputs_schema = schema
        return tensors

    def _inputs_of(self, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
        if self.inputs_schema is not None:
            return self.inputs_schema(args)
        if len(args) != len(self.flattened_inputs) or any(a is not b for a, b in zip(args, self.flattened_inputs)):
            raise ValueError(
                "TracingAdapter: its inputs hold other things than tensors, so it can only be called with its own "
                "`flattened_inputs`"
            )
        return self.inputs
