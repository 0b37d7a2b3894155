"""What a model file says of itself, so that whoever runs it needs no config."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields

KEY = "defcn_ext"  # of the one entry among a file's metadata; its value is JSON
VERSION = 1


class ModelFileError(ValueError):
    """A model file that cannot be used; the message is all that the user needs."""


@dataclass(frozen=True)
class ModelMetadata:
    """Everything between pixels and named boxes that is not in the graph.

    Attributes:
        class_names: by label; () where the model's classes have no names.
        num_classes: K.
        input: "images", (N, 3, H, W) float32, 0 to 255; or "image", (H, W, 3) uint8 RGB of any size.
        channel_order: of "images", such as "BGR".
        pixel_mean: by channel, in that order; the graph subtracts it, and padding has its colour.
        pixel_std: by channel; the graph divides by it.
        size: (H, W) of "images", or None where any will do.
        batch: N of "images", or None where any will do.
        resize: length in pixels that the shorter side gets, and the most that the longer may have; (0, 0) for none.
        boxes: what the numbers of a box are.
        score: how a score is made of the maps of the model.
        score_thresh: detections of the detector score strictly more; the graph leaves others out.
        top_k: detections of an image, those of score 0, which fill up, included.
        per_level: points, and (point, class) pairs, of each level that can become detections.
        one_class: whether a point names its best class alone.
        nms: IoU above which NMS removes the lower score of two boxes; None for no NMS.
        precision: of the arithmetic; "fp32".
        category_ids: of the classes in the data set's json, by label; () for 1, 2, 3 and so on.
        config_digest, weights_digest: SHA-256 of what the model was made from.
        made_with: versions of the packages that wrote the file.
    """

    class_names: tuple[str, ...]
    num_classes: int
    input: str
    channel_order: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    size: tuple[int, int] | None
    batch: int | None
    resize: tuple[int, int]
    boxes: str
    score: str
    score_thresh: float
    top_k: int
    per_level: int
    one_class: bool
    nms: float | None
    precision: str
    category_ids: tuple[int | str, ...] = ()
    config_digest: str = ""
    weights_digest: str = ""
    made_with: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """With the version of this layout."""
        return json.dumps({"version": VERSION, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | None, source: str) -> ModelMetadata:
        """
        Args:
            text: what the file has under `KEY`; None for nothing.
            source: the file, for errors.

        Raises:
            ModelFileError: there is none, it is damaged, or a later version wrote it.
        """
        if text is None:
            raise ModelFileError(f"{source}: has no description by defcn_ext; export it with defcn_ext.tools.export")
        try:
            content = json.loads(text)
            version = int(content.pop("version"))
            if version > VERSION:
                raise ModelFileError(
                    f"{source}: its description is of version {version}, newer than {VERSION}: update defcn_ext"
                )
            names = {each.name for each in fields(cls)}
            known = {key: tuple(x) if isinstance(x, list) else x for key, x in content.items() if key in names}
            return cls(**known)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(f"{source}: its description is damaged ({type(error).__name__}: {error})") from error

    def name_of(self, label: int) -> str:
        """The class's name, or its number where it has none."""
        return self.class_names[label] if label < len(self.class_names) else str(label)
