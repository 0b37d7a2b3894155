"""How long CrowdHuman's metrics take at the size of its validation set, on made-up crowds.

python -m defcn_ext.benchmarks.crowdhuman
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from defcn_ext.evaluation.crowdhuman_metrics import Detections, GroundTruth, crowdhuman_metrics

HEIGHT, WIDTH = 900, 1400  # pixels
KINDS = {
    "one box a person": (1, "after NMS: one box a person, the rest of the 500 beside persons"),
    "duplicates": (1000, "without NMS: all 500 on persons"),
}


def crowd(num_images: int, per_image: int, duplicates: int, seed: int) -> tuple[dict, dict]:
    """Crowds of 22.6 persons an image on average, up to 100, every twelfth box ignored, and what a detector finds.

    Args:
        per_image: detections in each image.
        duplicates: detections on each person, as far as `per_image` goes; the rest is beside persons.

    Returns:
        `GroundTruth` and `Detections` by ID.
    """
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for index in range(num_images):
        num = int(np.clip(rng.lognormal(2.87, 0.75), 1, 100))
        hubs = rng.uniform([0, 0], [WIDTH, HEIGHT], (max(1, num // 6), 2))
        height = rng.lognormal(5.2, 0.5, num)
        centre = hubs[rng.integers(len(hubs), size=num)] + rng.normal(0, 0.5, (num, 2)) * height[:, None]
        extent = np.stack([0.41 * height, height], 1) * rng.lognormal(0, 0.1, (num, 2))
        boxes = np.concatenate([centre - extent / 2, extent], 1)
        truth[f"{index},crowd"] = GroundTruth(boxes, rng.random(num) < 1 / 12, (HEIGHT, WIDTH))
        found[f"{index},crowd"] = _detections(rng, boxes, per_image, duplicates)
    return truth, found


def _detections(rng: np.random.Generator, boxes: np.ndarray, per_image: int, duplicates: int) -> Detections:
    on_persons = min(per_image, duplicates * len(boxes))
    source = boxes[np.arange(per_image) % len(boxes)]
    side = source[:, [2, 3, 2, 3]]
    error = np.where(np.arange(per_image)[:, None] < on_persons, 0.06, 0.6)
    quality = np.where(np.arange(per_image) < on_persons, 0.0, -2.5)
    scores = 1 / (1 + np.exp(-rng.normal(quality, 1.5)))
    return Detections((source + rng.normal(0, error, side.shape) * side).astype(np.float32), scores)


def benchmark_crowdhuman(num_images: int = 4370, per_image: int = 500, seed: int = 0) -> str:
    """AP, MR^-2, recall and JI together, from arrays in memory, in one process.

    Returns:
        a markdown table, a row for each kind of detector.
    """
    rows = ["| detections | images | persons | boxes found | AP | MR^-2 | recall | JI | time (s) |"]
    rows.append("|---" * 9 + "|")
    for name, (duplicates, _) in KINDS.items():
        data = crowd(num_images, per_image, duplicates, seed)
        start = time.perf_counter()
        m = crowdhuman_metrics(*data)
        seconds = time.perf_counter() - start
        rows.append(
            f"| {name} | {m.num_images} | {m.num_objects} | {m.num_detections} | {m.ap:.3f} | {m.mr:.3f} "
            f"| {m.recall:.3f} | {m.ji:.3f} | {seconds:.1f} |"
        )
    notes = [f"{name}: {meaning}." for name, (_, meaning) in KINDS.items()]
    return "\n".join([*rows, "", *notes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4370)
    parser.add_argument("--detections", type=int, default=500, help="in each image")
    args = parser.parse_args()
    print(benchmark_crowdhuman(args.images, args.detections))


if __name__ == "__main__":
    main()
