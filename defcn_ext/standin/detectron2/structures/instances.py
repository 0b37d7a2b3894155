import itertools
from typing import Any

import torch
from torch import Tensor


class Instances:
    """Everything known about the objects of one image: named fields of one length, reached as attributes.

    A field is anything with a length that can be indexed: a tensor, `Boxes`, masks, a list. Indexing, `cat` and `to`
    act on all fields alike. Names starting with an underscore are ordinary attributes.

    Args:
        image_size: (height, width).
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # Called for missing attributes only; `_fields` itself is missing while unpickling.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Instances has no field '{name}'")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Sets the field `name`. AssertionError if its length is not that of the other fields."""
        length = len(value)
        if self._fields:
            assert length == len(self), f"Instances.{name}: {length} values for {len(self)} instances"
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get(self, name: str) -> Any:
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields themselves, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """A copy on another device; fields without `to` are shared."""
        moved = Instances(self._image_size)
        for name, value in self._fields.items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: int | slice | Tensor) -> "Instances":
        """The chosen instances, every field indexed by `item`. An int keeps a length of 1."""
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError(f"Instances: index {item} of {len(self)}")
            item = slice(item, item + 1 or None)
        chosen = Instances(self._image_size)
        for name, value in self._fields.items():
            chosen.set(name, value[item])
        return chosen

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields has no length")

    def __iter__(self):
        raise NotImplementedError("Instances cannot be iterated: index it, or iterate over a field")

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """All instances of a list in one; the fields are those of the first element.

        Raises:
            AssertionError: an empty list, other types, or images of different sizes.
            KeyError: a later element lacks a field of the first.
            ValueError: a field that cannot be concatenated.
        """
        assert all(isinstance(i, Instances) for i in instance_lists), "Instances.cat: not all elements are Instances"
        assert len(instance_lists) > 0, "Instances.cat: nothing to concatenate"
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        # While tracing, sizes are tensors, which cannot be compared without leaving the graph.
        if not isinstance(first.image_size, Tensor):
            sizes = {tuple(i.image_size) for i in instance_lists}
            assert len(sizes) == 1, f"Instances.cat: images of different sizes {sorted(sizes)}"
        joined = Instances(first.image_size)
        for name in first.get_fields():
            joined.set(name, _cat_field(name, [i.get(name) for i in instance_lists]))
        return joined

    def __str__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        length = len(self) if self._fields else 0
        return f"Instances(num_instances={length}, image_height={height}, image_width={width}, fields=[{fields}])"

    __repr__ = __str__


def _cat_field(name: str, values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    if isinstance(values[0], list):
        return list(itertools.chain.from_iterable(values))
    if hasattr(type(values[0]), "cat"):
        return type(values[0]).cat(values)
    raise ValueError(f"Instances.cat: cannot concatenate field '{name}' of type {type(values[0]).__name__}")
