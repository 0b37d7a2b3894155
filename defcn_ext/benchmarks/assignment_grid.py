"""Assignment rules beside their dense forms, from one object on a thumbnail to crowds on whole batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import product

from defcn_ext.assignment import build_rule

from .assignment import make_batch, run_dense

GRID_SIZES = ((128, 160), (320, 416), (800, 1216))


def fastest(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Least CPU seconds of each call, taken in turn, so that what slows the machine slows all of them."""
    least = [float("inf")] * len(runs)
    for _ in range(repeats + 1):
        for i, run in enumerate(runs):
            start = time.process_time()
            run()
            least[i] = min(least[i], time.process_time() - start)
    return least


def benchmark_grid(
    names: Sequence[str],
    counts: Sequence[int],
    repeats: int,
    sizes: Sequence[tuple[int, int]] = GRID_SIZES,
    classes: Sequence[int] = (1, 3, 80),
    images: Sequence[int] = (1, 2),
) -> str:
    """Each rule on every combination of image size, batch, number of classes and of objects, on the CPU.

    Args:
        names: of rules that have a dense form, as in yaml.
        counts: objects an image.

    Returns:
        a markdown table: for each size and number of objects the median time of both forms, and the least and the
        largest ratio over batches, numbers of classes, and trained and untrained predictions.
    """
    lines = ["| rule | image | objects | dense (ms) | here (ms) | ratio, from - to |", "|---|---|---|---|---|---|"]
    for name, size, count in product(names, sizes, counts):
        cases = product(images, classes, (True, False))
        times = [_times(name, size, count, *case, repeats if count >= 20 else 10 * repeats) for case in cases]
        dense, here = (1e3 * sorted(column)[len(times) // 2] for column in zip(*times))
        ratios = sorted(a / b for a, b in times)
        cells = f"{count} | {dense:.2f} | {here:.2f} | {ratios[0]:.1f} - {ratios[-1]:.1f}"
        lines.append(f"| {name} | {size[0]} x {size[1]} | {cells} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def _times(
    name: str, size: tuple[int, int], count: int, images: int, classes: int, trained: bool, repeats: int
) -> list[float]:
    """Seconds of the dense form and of the rule."""
    rule = build_rule(name)
    batch = make_batch(images, count, classes, trained, name.startswith("RetinaNet"), "cpu", size)
    return fastest([lambda: run_dense(name, batch), lambda: rule(*batch)], repeats)
