from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent

setup(
    name="defcn_ext",
    version="0.1.0",
    description="Detectors that need no NMS, for Detectron2",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_namespace_packages(include=["defcn_ext", "defcn_ext.*"]),
    package_data={"defcn_ext.standin.detectron2": ["**/*.yaml"]},
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy>=1.23",
        "scipy>=1.8",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "yacs>=0.1.8",
        "pycocotools>=2.0.6",
        "Pillow>=9.1",
        "matplotlib>=3.6",
        "tensorboard>=2.10",
        "cloudpickle",
        "tabulate",
        "termcolor>=1.1",
    ],
    extras_require={
        "test": [
            *("pytest>=7", "pytest-xdist>=3.5", "hypothesis>=6", "ruff>=0.17,<0.18", "mypy>=2.4,<3"),
            *("onnx>=1.16", "onnxscript>=0.2", "onnxruntime>=1.18"),
        ],
        # Detectors as files for other runtimes (defcn_ext/export).
        "export": ["onnx>=1.16", "onnxscript>=0.2", "onnxruntime>=1.18", "openvino>=2024.4"],
        "detectron2": [
            "detectron2 @ git+https://github.com/facebookresearch/detectron2.git",
            "opencv-python-headless",  # its visualizer, which its stock tools draw with
            "setuptools<82",  # its model zoo imports pkg_resources, which later ones no longer have
        ],
    },
)
