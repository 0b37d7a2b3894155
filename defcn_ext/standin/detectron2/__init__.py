"""Answers `import detectron2` where Detectron2 is not installed: the same names, config keys and file formats.

It covers dense one-stage detectors and what trains and evaluates them, in pure Python.
"""

from .utils.env import setup_environment

setup_environment()

__version__ = "0.6"
