"""What is inside a recorded or scripted model, as files to read."""

import os

import torch

from detectron2.utils.file_io import PathManager

__all__ = ["dump_torchscript_IR"]


def dump_torchscript_IR(model: torch.jit.ScriptModule, dir: str) -> None:
    """Writes a model's code, graph, inlined graph and the model as it prints into `model_ts_*.txt` in a folder.

    Args:
        model: recorded or scripted.
        dir: made if needed.
    """
    PathManager.mkdirs(dir)
    texts = {"code": model.code, "IR": model.graph, "IR_inlined": model.inlined_graph, "": model}
    for name, text in texts.items():
        file = f"model_ts_{name}.txt" if name else "model.txt"
        with PathManager.open(os.path.join(dir, file), "w") as f:
            f.write(str(text))
