"""Measuring of data loaders, which is not here; Detectron2's benchmark tool imports it for models too."""

from detectron2.utils.left_out import left_out

DataLoaderBenchmark = left_out("DataLoaderBenchmark", __name__, "the speed of data loaders is not measured here")

__all__ = ["DataLoaderBenchmark"]
