"""What `import defcn_ext` does, in an interpreter of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_OPENCV = """
import sys
sys.modules.update({"cv2": None, "detectron2.utils.visualizer": None, "detectron2.utils.video_visualizer": None})
import defcn_ext, defcn_ext.engine, defcn_ext.evaluation, defcn_ext.checkpoint, defcn_ext.data
from tests.tiny import batch, tiny_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
with EventStorage(0) as storage:
    losses = build_model(tiny_cfg("VIS_PERIOD", 1))(batch())
    sum(losses.values()).backward()
    print(len(losses), len(storage._vis_data))
"""


@pytest.mark.slow
def test_it_registers_the_data_sets_and_the_detector():
    """Scripts of Detectron2 that take a --dataset import no more of this project than its name."""
    code = (
        "import defcn_ext\n"
        "from detectron2.data import DatasetCatalog\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "print('quick_val' in DatasetCatalog, 'crowdhuman_train' in DatasetCatalog, 'DeFCN' in META_ARCH_REGISTRY)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


def test_it_trains_and_draws_where_opencv_is_not_installed():
    """Detectron2 does not require it, but its visualizer does not import without."""
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", WITHOUT_OPENCV], capture_output=True, text=True, cwd=folder)
    assert done.stdout.split() == ["2", "1"], done.stderr
