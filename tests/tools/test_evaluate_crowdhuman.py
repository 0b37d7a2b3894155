import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from defcn_ext.tools import evaluate_crowdhuman

GT = [
    {"ID": "1,a", "gtboxes": [{"tag": "person", "fbox": [10, 10, 20, 40]}, {"tag": "person", "fbox": [60, 10, 20, 40]}]}
]
DT = [{"ID": "1,a", "dtboxes": [{"box": [10, 10, 20, 40], "score": 0.9, "tag": 1}]}]
SIZE = {"height": 100, "width": 100}
EXPECTED = {"AP": 0, "MR": 0.5, "recall": 0.5, "JI": 0.5}


@pytest.fixture
def run(tmp_path, capsys):
    def call(gt, dt, *options):
        for name, lines in (("gt.odgt", gt), ("dt.json", dt)):
            (tmp_path / name).write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
        evaluate_crowdhuman.main(["--gt", str(tmp_path / "gt.odgt"), "--dt", str(tmp_path / "dt.json"), *options])
        return capsys.readouterr().out

    return call


def sized(lines, **sizes):
    return [{**x, **(sizes or SIZE)} for x in lines]


@pytest.mark.parametrize("gt, dt", [(sized(GT), DT), (GT, sized(DT)), (sized(GT), sized(DT, height=1, width=1))])
def test_one_line_of_json_and_sizes_of_either_file(run, gt, dt):
    out = run(gt, dt, "--json")
    assert json.loads(out) == pytest.approx(EXPECTED, abs=1e-6)
    assert out.count("\n") == 1 and list(json.loads(out)) == ["AP", "MR", "recall", "JI"]


def test_sizes_from_images(run, tmp_path):
    Image.new("RGB", (30, 100)).save(tmp_path / "1,a.jpg")
    out = json.loads(run(GT, DT, "--json", "--sizes", str(tmp_path)))
    assert out["recall"] == 0.5
    # clipped to a width of 25, the object and this box are one; in an image of 100 their IoU is 15/35
    Image.new("RGB", (25, 100)).save(tmp_path / "1,a.jpg")
    wide = [{"ID": "1,a", "dtboxes": [{"box": [10, 10, 35, 40], "score": 0.9, "tag": 1}]}]
    narrow = [{"ID": "1,a", "gtboxes": GT[0]["gtboxes"][:1]}]
    assert json.loads(run(narrow, wide, "--json", "--sizes", str(tmp_path)))["recall"] == 1
    narrow[0]["gtboxes"][0] = {"tag": "person", "fbox": [10, 10, 17, 40]}
    assert json.loads(run(sized(narrow), wide, "--json", "--sizes", str(tmp_path)))["recall"] == 0


def test_a_table_in_percent(run):
    header, _, row = run(sized(GT), DT).splitlines()
    assert header == "| AP | MR^-2 | recall | JI | images | persons | detections |"
    assert row == "| 0.00 | 50.00 | 50.00 | 50.00 | 1 | 2 | 1 |"


def test_undefined_metrics_are_null(run):
    assert json.loads(run(sized([{"ID": "1,a", "gtboxes": []}]), [], "--json")) == dict.fromkeys(EXPECTED)


def test_rounding_is_an_option(run):
    gt = sized([{"ID": "a", "gtboxes": [{"tag": "person", "fbox": [0, 0, 20, 20]}]}])
    dt = [{"ID": "a", "dtboxes": [{"box": [0, 0, 20, 10.01], "score": 1}]}]
    assert json.loads(run(gt, dt, "--json"))["recall"] == 1
    assert json.loads(run(gt, dt, "--json", "--round-like-crowddet"))["recall"] == 0


@pytest.mark.parametrize(
    "gt, dt, options, message",
    [
        (GT, DT, [], "images, such as '1,a', have no height and width in "),
        (GT, DT, [], "give the folder of the images with --sizes"),
        (GT, DT, ["--sizes", "/nowhere"], "image '1,a': no size from /nowhere/1,a.jpg"),
        (sized(GT), [{"ID": "2,b", "dtboxes": []}], [], "unknown image ID '2,b'"),
        (sized(GT), [*DT, "{", "}"], [], "dt.json:2: not valid JSON"),
        ([{"ID": "1,a"}], DT, [], "gt.odgt:1: 'gtboxes' must be a list"),
        (sized(GT), DT, ["--dt", "/nowhere/dt.json"], "/nowhere/dt.json: No such file or directory"),
    ],
)
def test_errors_are_one_line(run, gt, dt, options, message, capsys):
    with pytest.raises(SystemExit) as error:
        run(gt, dt, *options)
    assert message in error.value.code and "\n" not in error.value.code
    assert capsys.readouterr().out == ""


def test_exit_codes_and_streams_of_the_command(tmp_path):
    """In a process of its own, a good and a bad call: one line on stdout, then one on stderr and exit code 1."""
    (tmp_path / "gt").write_text(json.dumps(sized(GT)[0]))
    (tmp_path / "good").write_text("")
    (tmp_path / "bad").write_text("[")
    calls = [["--gt", str(tmp_path / "gt"), "--dt", str(tmp_path / dt), "--json"] for dt in ("good", "bad")]
    code = f"from defcn_ext.tools.evaluate_crowdhuman import main\nfor call in {calls}: main(call)"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == '{"AP": 0.0, "MR": 1.0, "recall": 0.0, "JI": 0.0}\n'
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "bad:1: not valid JSON" in done.stderr
    with pytest.raises(SystemExit) as error:
        evaluate_crowdhuman.main(["--gt", "x"])
    assert error.value.code == 2
