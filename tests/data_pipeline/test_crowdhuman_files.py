"""Reading and writing CrowdHuman's files, whatever is in them."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from defcn_ext.data import crowdhuman_files as files
from defcn_ext.data.crowdhuman_files import AnnotationLine, CrowdHumanFileError, PersonBox, ResultLine
from defcn_ext.evaluation.crowdhuman_inputs import to_detections, to_truth
from defcn_ext.evaluation.crowdhuman_metrics import crowdhuman_metrics
from tests.evaluation.crowdhuman_examples import EXAMPLES

PERSON = {
    "tag": "person",
    "fbox": [-3, 10, 20, 40.5],
    "vbox": [1, 10, 16, 40],
    "hbox": [5, 10, 4, 4],
    "extra": {"box_id": 0, "occ": 1},
    "head_attr": {"ignore": 1, "occ": 0, "unsure": 0},
}
ANNOTATION = {"ID": "273271,c9db", "gtboxes": [PERSON, {"tag": "mask", "fbox": [0, 0, 9, 9], "extra": {"ignore": 1}}]}
# CrowdDet puts the ground truth and its own numbers into the line as well
RESULT = {
    "ID": "273271,c9db",
    "height": 600,
    "width": 800,
    "dtboxes": [{"box": [1, 2.5, 3, 4], "score": 0.25, "tag": 1}, {"box": [5, 6, 7, 8], "score": 1, "tag": 1, "n": 3}],
    "gtboxes": [],
}
READERS = {files.read_annotations: ANNOTATION, files.read_results: RESULT}
fuzz = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, *lines):
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines))
    return path


def test_annotations(tmp_path):
    (line,) = files.read_annotations(write(tmp_path / "a.odgt", ANNOTATION))
    assert (line.id, line.height, line.width) == ("273271,c9db", None, None)
    person, mask = line.boxes
    assert person.fbox == (-3, 10, 20, 40.5) and person.vbox == (1, 10, 16, 40) and person.hbox == (5, 10, 4, 4)
    assert person.extra == {"box_id": 0, "occ": 1} and mask.vbox is None and mask.head_attr == {}
    assert (person.ignored, person.head_ignored, mask.ignored, mask.head_ignored) == (False, True, True, True)


@pytest.mark.parametrize(
    "tag, extra, ignored",
    [("person", {}, False), ("mask", {}, True), ("person", {"ignore": 1}, True), ("person", {"ignore": 0}, False)],
)
def test_what_is_ignored(tag, extra, ignored):
    assert PersonBox(tag, (0, 0, 1, 1), extra=extra).ignored is ignored


def test_results(tmp_path):
    empty = {"ID": "b", "dtboxes": []}
    line, nothing = files.read_results(write(tmp_path / "r.json", RESULT, b"  ", empty, b""))
    assert (line.height, line.width) == (600, 800)
    assert line.boxes.tolist() == [[1, 2.5, 3, 4], [5, 6, 7, 8]] and line.scores.tolist() == [0.25, 1]
    assert line.boxes.dtype == line.scores.dtype == np.float64
    assert nothing.boxes.shape == (0, 4) and nothing.scores.shape == (0,) and nothing.height is None


def test_byte_order_marks_and_windows_line_ends(tmp_path):
    content = b"\xef\xbb\xbf" + json.dumps(ANNOTATION).encode() + b"\r\n"
    assert [x.id for x in files.read_annotations(write(tmp_path / "a.odgt", content))] == ["273271,c9db"]


def test_examples_survive_a_round_trip(tmp_path):
    truth, detections, _ = EXAMPLES["E1"]
    lines = [
        AnnotationLine(
            name,
            tuple(PersonBox("mask" if i else "person", tuple(b)) for b, i in zip(gt.boxes.tolist(), gt.ignored)),
            *gt.size,
        )
        for name, gt in truth.items()
    ]
    results = [ResultLine(name, d.boxes, d.scores, *truth[name].size) for name, d in detections.items()]
    files.write_annotations(tmp_path / "gt.odgt", lines)
    files.write_results(tmp_path / "dt.json", results)
    assert files.read_annotations(tmp_path / "gt.odgt") == lines
    read = to_truth(lines), to_detections(files.read_results(tmp_path / "dt.json"))
    assert crowdhuman_metrics(*read) == crowdhuman_metrics(truth, detections)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["dt.json", "gt.odgt"]


def test_annotations_survive_a_round_trip_with_all_their_keys(tmp_path):
    first = files.read_annotations(write(tmp_path / "a.odgt", ANNOTATION))
    files.write_annotations(tmp_path / "b.odgt", first)
    assert files.read_annotations(tmp_path / "b.odgt") == first
    assert json.loads((tmp_path / "b.odgt").read_text()) == ANNOTATION


def test_sizes_are_filled_in_where_they_lack():
    lines = [AnnotationLine("a", (), 5, 6), AnnotationLine("b", ()), AnnotationLine("c", ())]
    filled = files.with_sizes(lines, {"a": (1, 1), "b": (7, 8)})
    assert [(x.height, x.width) for x in filled] == [(5, 6), (7, 8), (None, None)]


def changed(content, path, value):
    content = json.loads(json.dumps(content))
    *way, last = path
    target = content
    for key in way:
        target = target[key]
    target[last] = value
    return content


BAD = [
    (files.read_annotations, b"{", "not valid JSON"),
    (files.read_annotations, b'{"ID": "\xff"}', "not valid UTF-8"),
    (files.read_annotations, b"[" * 100_000, "nested too deeply"),
    (files.read_annotations, b'{"ID": ' + b"1" * 5000 + b"}", "a number is too long"),
    (files.read_annotations, [1], "expected a JSON object, not a list"),
    (files.read_annotations, changed(ANNOTATION, ["ID"], 7), "'ID' must be a text, not a number"),
    (files.read_annotations, changed(ANNOTATION, ["gtboxes"], None), "'gtboxes' must be a list, not nothing"),
    (files.read_annotations, changed(ANNOTATION, ["gtboxes", 1], 3), r"gtboxes\[1\]: expected an object"),
    (files.read_annotations, changed(ANNOTATION, ["gtboxes", 0, "tag"], 1), r"gtboxes\[0\]: 'tag' must be a text"),
    (files.read_annotations, changed(ANNOTATION, ["gtboxes", 0, "fbox"], [1, 2, 3]), r"fbox: .* not 3 values"),
    (files.read_annotations, changed(ANNOTATION, ["gtboxes", 0, "fbox"], [1, 2, 3, True]), "not true or false"),
    (files.read_annotations, changed(ANNOTATION, ["gtboxes", 0, "vbox"], "x"), r"vbox: .* not a text"),
    (files.read_annotations, changed(ANNOTATION, ["gtboxes", 0, "extra"], []), "extra: expected an object"),
    (files.read_annotations, changed(ANNOTATION, ["gtboxes", 0, "extra", "ignore"], "1"), "extra.ignore: .*a text"),
    (files.read_annotations, {**ANNOTATION, "width": 0}, "above 0"),
    (files.read_results, changed(RESULT, ["dtboxes", 1, "score"], float("nan")), r"dtboxes\[1\].score: .*not finite"),
    (files.read_results, changed(RESULT, ["dtboxes", 1, "score"], "0.5"), r"dtboxes\[1\].score: .*not a text"),
    (files.read_results, changed(RESULT, ["dtboxes", 0, "box"], [1, 2, 3, 10**400]), r"dtboxes\[0\].box: .*not finite"),
    (files.read_results, changed(RESULT, ["dtboxes", 0, "box"], {"x": 1}), r"dtboxes\[0\].box: .*not an object"),
    (files.read_results, changed(RESULT, ["dtboxes", 0], "abc"), r"dtboxes\[0\]: expected an object"),
    (files.read_results, changed(RESULT, ["dtboxes"], {}), "'dtboxes' must be a list, not an object"),
    (files.read_results, {**RESULT, "height": [1]}, "height: expected a number, not a list"),
]


@pytest.mark.parametrize("read, line, reason", BAD, ids=lambda x: x if isinstance(x, str) else "")
def test_a_bad_line_is_named(read, line, reason, tmp_path):
    path = write(tmp_path / "file.odgt", changed(READERS[read], ["ID"], "first"), line, READERS[read])
    with pytest.raises(CrowdHumanFileError, match=r"^\S+file\.odgt:2: .*" + reason) as error:
        read(path)
    assert "\n" not in str(error.value) and "in all" not in str(error.value)
    bad = []
    assert [x.id for x in read(path, bad)] == ["first", "273271,c9db"]
    assert [x.line for x in bad] == [2]


def test_all_bad_lines_are_counted_and_ids_must_not_repeat(tmp_path):
    path = write(tmp_path / "x.odgt", ANNOTATION, b"", ANNOTATION, b"nonsense")
    with pytest.raises(CrowdHumanFileError, match=r"x\.odgt:3: ID '273271,c9db' is on line 1 already \(2 bad lines"):
        files.read_annotations(path)


@pytest.mark.parametrize("read", READERS)
@fuzz
@given(content=st.binary(max_size=60))
def test_any_bytes_are_records_or_that_error(read, tmp_path, content):
    check(read, write(tmp_path / "f", content, READERS[read]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda x: (
        st.lists(x, max_size=5) | st.dictionaries(st.sampled_from(["box", "score", "fbox", "tag"]), x, max_size=4)
    ),
    max_leaves=6,
)


def places(content, way=()):
    """The ways to everything inside."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [way] * bool(way) + [p for key, value in items for p in places(value, (*way, key))]


@pytest.mark.parametrize("read", READERS)
@fuzz
@given(data=st.data(), value=JSON)
def test_any_value_anywhere_is_a_record_or_that_error(read, tmp_path, data, value):
    way = data.draw(st.sampled_from(places(READERS[read])))
    check(read, write(tmp_path / "f", changed(READERS[read], way, value)))


@pytest.mark.parametrize("read", READERS)
@fuzz
@given(data=st.data(), byte=st.integers(0, 255))
def test_any_mutated_byte_is_a_record_or_that_error(read, tmp_path, data, byte):
    raw = json.dumps(READERS[read]).encode()
    place = data.draw(st.integers(0, len(raw) - 1))
    change = data.draw(st.sampled_from([b"", bytes([byte]), raw[place : place + 1] + bytes([byte])]))
    check(read, write(tmp_path / "f", raw[:place] + change + raw[place + 1 :]))


def check(read, path):
    try:
        lines = read(path)
    except CrowdHumanFileError as error:
        assert str(error).startswith(f"{path}:{error.bad[0].line}: ") and "\n" not in str(error)
        return
    for line in lines:
        assert isinstance(line.id, str) and line.id
        boxes = line.boxes if read is files.read_results else [x.fbox for x in line.boxes]
        assert np.isfinite(np.array(boxes, dtype=np.float64)).all()
    convert = to_detections if read is files.read_results else to_truth
    assert list(convert(lines)) == [line.id for line in lines]


@fuzz
@given(
    boxes=st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 5), max_size=4),
    name=st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])),
)
def test_results_are_read_as_they_were_written(boxes, name, tmp_path):
    numbers = np.array(boxes).reshape(-1, 5)
    files.write_results(tmp_path / "r", [ResultLine(name, numbers[:, :4], numbers[:, 4], 480, 640.5)])
    (line,) = files.read_results(tmp_path / "r")
    assert (line.id, line.height, line.width) == (name, 480, 640.5)
    assert np.array_equal(line.boxes, numbers[:, :4]) and np.array_equal(line.scores, numbers[:, 4])
