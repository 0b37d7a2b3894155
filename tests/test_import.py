"""What `import defcn_ext` does, in an interpreter of its own."""

import subprocess
import sys

import pytest


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
