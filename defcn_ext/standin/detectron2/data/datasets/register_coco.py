"""The place where older code looks for `register_coco_instances`."""

from detectron2.data.datasets.coco import register_coco_instances

__all__ = ["register_coco_instances"]
