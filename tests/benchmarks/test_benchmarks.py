import pytest
import torch

from defcn_ext.assignment import build_rule, rules
from defcn_ext.benchmarks import assignment, losses, matching, max_filtering, peaks
from defcn_ext.benchmarks.scenes import SIZES, crowded_image, level_sizes
from defcn_ext.layers import max_over_neighbours
from defcn_ext.losses import paired_iou


@pytest.mark.parametrize("count", [1, 40])
def test_both_routes_reach_the_same_total_quality(count):
    """Else the ratio of their times would mean nothing."""
    _, scores, boxes, gt_boxes, gt_classes = image = crowded_image(count, num_classes=5, seed=3)
    pairs = build_rule("POTO")(*image)
    quality = scores[pairs.point, gt_classes[pairs.object]] ** 0.2
    quality = quality * paired_iou(boxes[pairs.point], gt_boxes[pairs.object]) ** 0.8
    assert quality.sum().item() == pytest.approx(matching.dense_poto(*image), rel=1e-4)
    assert len(pairs) > 0.6 * count


@pytest.mark.parametrize("tau", [2, 4])
def test_both_poolings_are_equal(tau):
    features = [torch.randn(1, 2, *size) for size in [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]]
    for ours, theirs in zip(max_over_neighbours(features, tau, 3), max_filtering.stacked_max_pool3d(features, tau, 3)):
        assert torch.equal(ours, theirs)


def test_the_tables_have_a_row_a_case(capsys):
    table = matching.benchmark_matching([2, 5], repeats=1, num_classes=3)
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == ["2", "5"]
    assert all(row.rstrip(" |").endswith("x") for row in table.splitlines()[2:])


@pytest.mark.parametrize("name", sorted(assignment.DENSE))
@pytest.mark.parametrize("trained", [True, False])
def test_dense_forms_find_what_the_rules_find(name, trained):
    batch = assignment.make_batch(2, 6, 3, trained, name == "RetinaNet", "cpu")
    pairs, found = build_rule(name)(*batch), []
    for n, (point, object) in enumerate(assignment.run_dense(name, batch)):
        found += zip((point + n * len(batch.points)).tolist(), (object + 6 * n).tolist())
    ours = set(zip(pairs.point.tolist(), pairs.object.tolist()))
    if name == "POTO":  # the dense form also pairs objects that no point covers
        found = [pair for pair in found if pair[1] in pairs.object.tolist()]
    assert len(ours & set(found)) >= 0.95 * max(len(ours), len(found)) > 0


def test_peak_memory_counts_what_lives_at_once():
    def run():
        x = torch.zeros(1 << 18)  # 1 MiB
        y = x + 1
        del x
        return (y * 2)[:5].view(5, 1)

    assert assignment.peak_memory(run, "cpu") == 2
    assert assignment.peak_memory(run, "cpu") == 2


def test_assignment_table_has_a_ratio_where_a_dense_form_exists(capsys):
    table = assignment.benchmark_assignment(["FCOS", "ATSS"], [2], 1, 3, 1, "cpu").splitlines()[2:]
    assert [row.split("|")[1].strip() for row in table] == ["FCOS", "FCOS", "ATSS", "ATSS"]
    assert [row.rstrip(" |")[-1] for row in table] == ["x", "x", "-", "-"]


@pytest.mark.parametrize("name", ["DW", "FCOS", "GFL", "O2F", "POTO", "TOOD", "VFL"])
def test_training_step_has_gradients_of_every_prediction(name):
    batch = assignment.make_batch(2, 6, 3, True, False, "cpu")
    of_logits, of_boxes, of_quality = losses.training_step(losses.branch_of(name, 3), batch)()
    points = len(batch.points)
    assert of_logits.shape == (2, points, 3) and of_logits.isfinite().all()
    assert (of_logits != 0).float().mean() > 0.99  # a pair without weight has none
    assert of_quality.shape == (2, points, 1) and of_quality.isfinite().all()
    assert 12 <= of_boxes.any(-1).sum() < points / 2  # positives alone


def test_memory_of_a_step_does_not_follow_points_times_objects():
    """Twenty times the objects add less than one float32 a point for a tenth of them."""
    memory = {}
    for count in (5, 100):
        batch = assignment.make_batch(1, count, 3, True, False, "cpu")
        run = losses.training_step(losses.branch_of("O2F", 3), batch)
        memory[count] = assignment.peak_memory(run, "cpu")
    assert memory[100] - memory[5] < 95 / 10 * 4 * len(batch.points) / 2**20


def test_table_with_losses(capsys):
    table = losses.benchmark_losses(["O2F", "DW"], [2, 3], 1, 3, 1, "cpu").splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    assert [row[:2] for row in cells] == [["O2F", "2"], ["O2F", "3"], ["DW", "2"], ["DW", "3"]]
    assert all(0 < float(row[2]) < float(row[3]) for row in cells)


def test_levels_of_an_image_are_those_of_the_padded_network_input():
    assert level_sizes((800, 1216)) == SIZES
    assert level_sizes((800, 1400)) == [(100, 176), (50, 88), (25, 44), (13, 22), (7, 11)]


def test_the_step_of_every_rule_is_measured_also_with_anchors():
    lines = losses.benchmark_losses([], [3], 1, 2, 1, "cpu", (64, 96)).splitlines()[2:]
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [name for name in rules() if name != "Combine"]
    assert all(float(line.split(" | ")[4]) >= 0 for line in lines)


def test_peaks_are_timed_against_nms_of_the_best_pairs():
    points, scores, *_ = crowded_image(3, num_classes=2, seed=0)
    point, label = peaks.best_of_levels(scores, points)
    assert len(point) == sum(min(peaks.TOP_K, 2 * count) for count in points.counts)
    first = scores[: points.counts[0]].flatten().topk(peaks.TOP_K).values
    assert torch.equal(scores[point, label][: peaks.TOP_K], first)
    (row,) = peaks.benchmark_peaks([3], repeats=1, num_classes=2).splitlines()[2:]
    assert row.split("|")[1].strip() == "3" and row.rstrip(" |").endswith("x")
