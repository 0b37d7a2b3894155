import numpy as np

from defcn_ext.benchmarks.crowdhuman import benchmark_crowdhuman, crowd


def test_crowds_are_as_in_crowdhuman():
    """22.6 persons an image, up to 100; 2.4 pairs an image with IoU > 0.5 in the real one."""
    truth, detections = crowd(600, 500, duplicates=1, seed=0)
    counts = np.array([(~gt.ignored).sum() for gt in truth.values()])
    assert 18 < counts.mean() < 27 and counts.max() > 60
    assert {len(d.scores) for d in detections.values()} == {500}


def test_a_row_for_each_kind_of_detector():
    rows = benchmark_crowdhuman(num_images=5, per_image=60).splitlines()[2:4]
    assert [row.split("|")[2].strip() for row in rows] == ["5", "5"]
    assert [row.split("|")[4].strip() for row in rows] == ["300", "300"]
