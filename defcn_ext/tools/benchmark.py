"""Side-by-side timings, each pair in one run.

python -m defcn_ext.tools.benchmark matching          exact matching: full matrix against sparse pairs
python -m defcn_ext.tools.benchmark max_filtering     3D Max Filtering: 3D pooling against 2D pooling
python -m defcn_ext.tools.benchmark peaks             peaks among overlapping boxes against NMS
python -m defcn_ext.tools.benchmark crowdhuman        CrowdHuman's metrics at the size of its validation set
python -m defcn_ext.tools.benchmark assignment        every rule: its obvious dense form against it, time and memory
python -m defcn_ext.tools.benchmark assignment --grid         from a thumbnail with one object to batches of crowds
python -m defcn_ext.tools.benchmark assignment --with-loss    with the losses and their gradients to the predictions
"""

from __future__ import annotations

import argparse

import torch

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.benchmarks.assignment import benchmark_assignment
from defcn_ext.benchmarks.assignment_grid import benchmark_grid
from defcn_ext.benchmarks.crowdhuman import benchmark_crowdhuman
from defcn_ext.benchmarks.losses import benchmark_losses
from defcn_ext.benchmarks.matching import benchmark_matching
from defcn_ext.benchmarks.max_filtering import benchmark_max_filtering
from defcn_ext.benchmarks.peaks import benchmark_peaks
from defcn_ext.benchmarks.scenes import SIZE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["matching", "max_filtering", "assignment", "crowdhuman", "peaks"])
    parser.add_argument("--objects", type=int, nargs="+", help="default: 20 100 300 600; for assignment 20 100 500")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both routes")
    parser.add_argument("--rules", nargs="+", default=[], help="assignment: rules as in yaml; default: all")
    parser.add_argument("--batch", type=int, default=2, help="assignment: images a batch")
    parser.add_argument(
        "--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"), help="assignment: pixels"
    )
    parser.add_argument("--with-loss", action="store_true", help="assignment: and the losses with their gradients")
    parser.add_argument("--grid", action="store_true", help="assignment: many sizes, for rules with a dense form")
    parser.add_argument("--device", default="cpu", help="assignment: cpu or cuda")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "crowdhuman":
        print(benchmark_crowdhuman())
        return
    if args.what == "assignment" and args.grid:
        print(benchmark_grid(args.rules or ["QualityATSS"], args.objects or [1, 3, 20, 200], args.repeats))
        return
    if args.what == "assignment":
        height, width = args.size
        print(
            f"{args.batch} images of {height} x {width}, {args.classes} classes, {args.threads} thread(s), "
            f"{args.device}"
        )
        counts = args.objects or [20, 100, 500]
        benchmark = benchmark_losses if args.with_loss else benchmark_assignment
        print(benchmark(args.rules, counts, args.batch, args.classes, args.repeats, args.device, (height, width)))
        return
    if args.what == "peaks":
        print(f"One 800 x 1216 image, {args.threads} thread(s), median of {args.repeats} runs", flush=True)
        print(benchmark_peaks(args.objects or [20, 100, 300], args.repeats, args.classes))
        return
    subject = "POTO" if args.what == "matching" else f"3D Max Filtering of {args.channels} channels"
    print(f"{subject} on one 800 x 1216 image, {args.threads} thread(s), median of {args.repeats} runs", flush=True)
    if args.what == "matching":
        print(benchmark_matching(args.objects or [20, 100, 300, 600], args.repeats, args.classes))
    else:
        print(benchmark_max_filtering(args.repeats, args.channels))


if __name__ == "__main__":
    main()
