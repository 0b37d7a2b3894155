import csv
import json
import math

import pytest
from PIL import Image

from defcn_ext.study import plots, report
from defcn_ext.study.entries import Entry
from defcn_ext.study.jobs import Failure
from defcn_ext.study.report import Spread, Summary, target_ap
from defcn_ext.study.runs import Evaluation
from tests.study.test_compare import make_run

FCOS = [
    make_run(seed=0),  # 2.5 duplicates, 20 of 100 objects missed, 3 wrong an image
    make_run(seed=1, aps=((10, 7.0, 9.0), (20, 24.0, 37.0)), counts=(100, 50, 175, 10), train_seconds=50.0),
]
POTO = [make_run("POTO", seed=0, aps=((10, 11.0, 11.5), (20, 40.0, 39.9)), counts=(100, 90, 9, 0))]
NOTHING = make_run("nan", aps=((10, math.nan, math.nan),), counts=(0, 0, 0, 0), images=0)
LABELS = ["FCOS", "POTO", "lost"]
FAILURES = [Failure("POTO", 1, "exit code 1\nboom"), Failure("lost", 0, "killed by signal 9")]


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def summaries():
    return [Summary.of(label, [*FCOS, *POTO], FAILURES) for label in LABELS]


def test_spread():
    spread = Spread.of([1.0, math.nan, 4.0])
    assert spread.mean == 2.5 and spread.std == pytest.approx(4.5**0.5)  # sum of squares 4.5 over n - 1 = 1
    assert spread.show("+.1f") == "+2.5 ± 2.1"
    assert Spread.of([-0.25]).show("+.2f") == "-0.25" and Spread.of([math.nan]).show() == "-"


def test_summary():
    fcos, poto, lost = summaries()
    assert fcos.seeds == (0, 1) and fcos.failed_seeds == () and poto.failed_seeds == (1,)
    assert (fcos.ap.mean, fcos.ap_with_nms.mean, fcos.nms_adds.mean, fcos.ap50.mean) == (22.0, 36.0, 14.0, 44.0)
    assert fcos.nms_adds.std == pytest.approx(2**0.5)  # 15 and 13
    assert (fcos.duplicates.mean, fcos.missed.mean, fcos.wrong.mean) == (3.0, 0.35, 2.0)
    assert fcos.train_seconds == 75.0
    assert fcos.curve == ((10, 6.0), (20, 22.0)) and poto.curve == ((10, 11.0), (20, 40.0))
    assert lost.seeds == () and lost.curve == () and math.isnan(lost.ap.mean)


def test_who_converges_faster():
    fcos, poto, lost = summaries()
    assert target_ap([fcos, poto, lost]) == 20.0  # half of POTO's 40
    assert [x.reaches(20.0) for x in (fcos, poto, lost)] == [20, 20, None]
    assert target_ap([fcos, lost]) == 11.0
    assert [x.reaches(11.0) for x in (fcos, poto)] == [20, 10] and fcos.reaches(22.1) is None
    assert math.isnan(target_ap([lost, Summary.of("nan", [NOTHING])]))


def test_only_iterations_that_all_seeds_evaluated_count():
    longer = make_run(seed=1, aps=((10, 7.0, 9.0), (15, 50.0, 50.0), (20, 24.0, 37.0)))
    assert Summary.of("FCOS", [FCOS[0], longer]).curve == ((10, 6.0), (20, 22.0))


def test_table():
    header, _, fcos, poto, lost = cells(report.markdown(summaries()))
    assert header[-1] == "iterations to AP 20.0"
    expected = ["FCOS", "0, 1", "22.0 ± 2.8", "36.0 ± 1.4", "+14.0 ± 1.4", "44.0 ± 5.7", "3.00 ± 0.71", "1:15", "20"]
    assert fcos == expected
    assert poto == ["POTO", "0 (failed: 1)", "40.0", "39.9", "-0.1", "80.0", "0.10", "1:40", "20"]
    assert lost == ["lost", "- (failed: 0)", *["-"] * 7]


def test_files(tmp_path):
    entries = [Entry("FCOS", "fcos.yaml"), Entry("POTO", "poto.yaml", ("A.B", "c, d")), Entry("lost", "x.yaml")]
    table = report.write_report(entries, [*FCOS, *POTO], FAILURES, tmp_path)
    names = ["ap.png", "duplicates.png", "results.json", "table.csv", "table.md"]
    assert sorted(x.name for x in tmp_path.iterdir()) == names
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table + "\n"
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as file:
        fcos, poto, lost = csv.DictReader(file)
    assert (fcos["ap"], fcos["missed"], fcos["wrong"], fcos["seeds"]) == ("22", "0.35", "2", "0 1")
    assert (poto["ap_std"], poto["failed_seeds"], poto["iterations_to_target"]) == ("", "1", "20")
    assert (lost["ap"], lost["duplicates"], lost["iterations_to_target"]) == ("", "", "")
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert content["target_ap"] == 20.0 and content["runs"][1]["curve"][1]["ap_with_nms"] == 37.0
    assert content["detectors"][1]["changes"] == ["A.B", "c, d"] and content["detectors"][2]["ap"]["mean"] is None
    assert content["failures"][0] == {"label": "POTO", "seed": 1, "reason": "exit code 1\nboom"}
    for name in ("ap.png", "duplicates.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width > 600 and len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_ap_against_iterations():
    axes = plots.ap_figure(LABELS, [*FCOS, *POTO]).axes[0]
    drawn = [(x.get_linestyle(), list(x.get_xdata()), list(x.get_ydata())) for x in axes.get_lines()]
    assert drawn == [
        ("-", [10, 20], [6.0, 22.0]),
        ("--", [10, 20], [9.0, 36.0]),
        ("-", [10, 20], [11.0, 40.0]),
        ("--", [10, 20], [11.5, 39.9]),
        ("-", [], []),
        ("--", [], []),
    ]
    colors = [line.get_color() for line in axes.get_lines()]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert len(axes.collections) == 2  # bands for the detector with two seeds alone
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (5.0, 24.0)
    assert [x.get_text() for x in axes.get_legend().get_texts()] == [*LABELS, "without NMS", "with NMS"]
    assert axes.get_xlabel() == "training iterations" and axes.get_ylabel() == "AP (%)"


def test_a_value_that_could_not_be_measured_leaves_a_gap():
    run = make_run(aps=((10, math.nan, 1.0), (20, 3.0, 4.0)))
    assert plots.mean_and_range([run, FCOS[0]], "ap") == [(10, 5.0, 5.0, 5.0), (20, 11.5, 3.0, 20.0)]
    assert plots.mean_and_range([NOTHING], "ap") == []


def test_duplicates_of_each_detector():
    axes = plots.duplicates_figure(LABELS, [*FCOS, *POTO]).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [3.0, 0.1, 0.0]
    (points,) = axes.get_lines()
    assert list(points.get_ydata()) == [2.5, 3.5] and all(abs(x) < 0.3 for x in points.get_xdata())
    assert [x.get_text() for x in axes.get_xticklabels()] == ["FCOS\n3.00 ± 0.71", "POTO\n0.10", "lost\n-"]
    assert axes.get_ylim()[1] > 3.5


def test_nothing_finished_still_gives_a_report(tmp_path):
    table = report.write_report([Entry("lost", "x.yaml")], [], FAILURES[1:], tmp_path)
    assert "iterations to AP -" in table and (tmp_path / "ap.png").stat().st_size > 0


def test_metrics_without_an_ap50_are_read_too():
    crowd = {"AP": 80.0, "MR": 50.0, "recall": 90.0, "JI": 70.0}
    read = Evaluation.from_results(7, {"bbox": crowd, "bbox_with_nms": {**crowd, "AP": 81.0}})
    assert (read.iteration, read.ap, read.ap_with_nms) == (7, 80.0, 81.0)
    assert math.isnan(read.ap50)
