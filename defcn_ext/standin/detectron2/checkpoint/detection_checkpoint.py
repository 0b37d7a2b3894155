"""Saving and loading of models, with weights of several origins."""

import logging
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from fvcore.common.checkpoint import Checkpointer

import detectron2.utils.comm as comm
from detectron2.utils.array_pickle import load_arrays
from detectron2.utils.file_io import PathManager

from .c2_model_loading import align_and_update_state_dicts


class DetectionCheckpointer(Checkpointer):
    """A Checkpointer that also reads model zoo pickles, Caffe2 blobs and pycls files, and matches names if asked.

    Only rank 0 saves, unless `save_to_disk` says otherwise.
    """

    def __init__(self, model, save_dir="", *, save_to_disk=None, **checkpointables):
        """
        Args:
            model: the module; a DDP wrapper is taken off.
            save_dir: existing folder to save to; "" saves nothing.
            save_to_disk: whether this process saves.
            checkpointables: more objects with a state dict, by the key to save them under.
        """
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._query: dict[str, list[str]] = {}

    def load(self, path, *args, **kwargs) -> dict[str, Any]:
        """Loads a file; its extension says what it is.

        `.pkl` is a zoo dict, Caffe2 blobs or a plain dict of arrays; `.pyth` is from pycls; anything else is for
        torch. "?matching_heuristics=True" after the path lets names match by their ends.

        Args:
            path: path or URL that PathManager understands; "" loads nothing.
            args, kwargs: see `Checkpointer.load`.

        Returns:
            what is in the file besides the model and the checkpointables.

        Raises:
            AssertionError: the file does not exist.
            ValueError: the query is not understood.
        """
        logging.getLogger(__name__).info(f"[DetectionCheckpointer] Loading from {path} ...")
        parts = urlsplit(path)
        self._query = parse_qs(parts.query)
        return super().load(urlunsplit(parts._replace(query="")) if parts.query else path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            checkpoint = self._load_pickle(filename)
        elif filename.endswith(".pyth"):
            checkpoint = self._load_pycls(filename)
        else:
            checkpoint = super()._load_file(filename)
            if "model" not in checkpoint:
                checkpoint = {"model": checkpoint}
        self._apply_query(checkpoint)
        return checkpoint

    def _load_pickle(self, filename: str) -> dict[str, Any]:
        with PathManager.open(filename, "rb") as f:
            data = load_arrays(f)
        if "model" in data and "__author__" in data:
            self.logger.info(f"Reading a file from '{data['__author__']}'")
            return data
        blobs = data.get("blobs", data)
        blobs = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
        return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}

    def _load_pycls(self, filename: str) -> dict[str, Any]:
        data = super()._load_file(filename)
        assert "model_state" in data, f"{filename} has no 'model_state': not a file of pycls"
        model = {name: value for name, value in data["model_state"].items() if "num_batches_tracked" not in name}
        return {"model": model, "__author__": "pycls", "matching_heuristics": True}

    def _apply_query(self, checkpoint: dict[str, Any]) -> None:
        query, self._query = dict(self._query), {}
        if query.pop("matching_heuristics", ["False"]) == ["True"]:
            checkpoint["matching_heuristics"] = True
        if query:
            raise ValueError(f"Checkpoint path: unknown query {query}; known: matching_heuristics=True")

    def _load_model(self, checkpoint: dict[str, Any]):
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(),
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__") == "Caffe2",
            )
        incompatible = super()._load_model(checkpoint)
        own_buffers = dict(self.model.named_buffers(recurse=False))
        quiet = {name for name in ("pixel_mean", "pixel_std") if name in own_buffers}
        # Anchors were once saved, pixel statistics once were not: neither is worth a warning.
        return incompatible._replace(
            missing_keys=[key for key in incompatible.missing_keys if key not in quiet],
            unexpected_keys=[key for key in incompatible.unexpected_keys if "anchor_generator.cell_anchors" not in key],
        )
