from detectron2.data.datasets import builtin  # registers the names
from detectron2.data.datasets.coco import convert_to_coco_json, load_coco_json, load_sem_seg, register_coco_instances
from detectron2.data.datasets.pascal_voc import load_voc_instances, register_pascal_voc

__all__ = [
    "builtin",
    "convert_to_coco_json",
    "load_coco_json",
    "load_sem_seg",
    "load_voc_instances",
    "register_coco_instances",
    "register_pascal_voc",
]
