"""Frames of a video file or a camera, where OpenCV is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .metadata import ModelFileError

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def is_video(source: str) -> bool:
    """Whether a source is a video file, or the number of a camera."""
    return source.isdigit() or Path(source).suffix.lower() in SUFFIXES


def frames_of(source: str) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB, one after the other.

    Raises:
        ModelFileError: OpenCV is missing, or there is no such video or camera.
    """
    if importlib.util.find_spec("cv2") is None:
        raise ModelFileError(f"{source}: videos and cameras need OpenCV: pip install opencv-python-headless")
    import cv2

    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise ModelFileError(f"{source}: no video or camera that OpenCV can open")
    try:
        while True:
            there, frame = capture.read()
            if not there:
                return
            yield np.ascontiguousarray(frame[..., ::-1])
    finally:
        capture.release()
