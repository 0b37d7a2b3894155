"""CrowdHuman's files as records: what is kept, what is counted, and how image sizes are cached."""

import json
import logging
import os
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from defcn_ext.config import add_defcn_config
from defcn_ext.data import crowdhuman_sizes
from defcn_ext.data.builtin import register_all
from defcn_ext.data.crowdhuman import box_flaw, load_crowdhuman, read_crowdhuman, register_crowdhuman
from defcn_ext.data.crowdhuman_sizes import image_sizes
from defcn_ext.data.loaders import build_test_loader, train_dicts
from defcn_ext.data.mapper import RobustMapper, UnreadableImageError
from defcn_ext.engine.preflight.paths import check_datasets
from defcn_ext.evaluation.crowdhuman import crowdhuman_truth
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode


def person(fbox, tag="person", **more):
    return {"tag": tag, "fbox": fbox, **more}


@pytest.fixture
def crowd(tmp_path):
    """Writes annotation_val.odgt and 60 x 40 images of its IDs; returns the path of the odgt and of the images."""

    def make(lines, images=None, name="annotation_val.odgt"):
        folder = tmp_path / "Images"
        folder.mkdir(exist_ok=True)
        for image_id in [line["ID"] for line in lines if isinstance(line, dict)] if images is None else images:
            Image.new("RGB", (60, 40), (90, 60, 30)).save(folder / f"{image_id}.jpg")
        odgt = tmp_path / name
        odgt.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
        return str(odgt), str(folder)

    return make


@pytest.fixture
def registered(crowd):
    """A set under the name that it is given, gone after the test."""
    names = []

    def make(name, *args, **kwargs):
        register_crowdhuman(name, *crowd(*args, **kwargs))
        names.append(name)
        return name

    yield make
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(*opts):
    cfg = get_cfg()
    add_defcn_config(cfg)
    cfg.merge_from_list(["MODEL.DEFCN.NUM_CLASSES", 1, "DATALOADER.NUM_WORKERS", 0, *opts])
    return cfg


TWO = [
    {
        "ID": "273271,c9db000d5146c15",
        "gtboxes": [
            person([-10, 5, 30, 50], vbox=[0, 5, 20, 35], hbox=[0, 5, 4, 4], extra={"box_id": 0, "occ": 1}),
            person([5, 5, 10, 20], extra={"ignore": 1}),
            person([6, 5, 10, 20], extra={"ignore": 0}, hbox=[6, 5, 3, 3], head_attr={"ignore": 1}),
            person([20, 0, 30, 30], tag="mask", hbox=[20, 0, 30, 30], extra={}),
        ],
    },
    {"ID": "273272,0", "gtboxes": []},
]


def test_records_hold_what_the_annotations_say(crowd):
    odgt, images = crowd(TWO)
    first, second = load_crowdhuman(odgt, images)
    assert first["ID"] == "273271,c9db000d5146c15"
    assert first["file_name"] == os.path.join(images, "273271,c9db000d5146c15.jpg")
    assert (first["height"], first["width"], first["image_id"]) == (40, 60, 1)
    boxes = first["annotations"]
    assert [b["bbox"] for b in boxes] == [[-10, 5, 30, 50], [5, 5, 10, 20], [6, 5, 10, 20], [20, 0, 30, 30]]
    assert [b["iscrowd"] for b in boxes] == [0, 1, 0, 1]
    assert [b["head_ignore"] for b in boxes] == [0, 1, 1, 1]
    assert (boxes[0]["vbox"], boxes[0]["hbox"], boxes[1]["vbox"]) == ((0, 5, 20, 35), (0, 5, 4, 4), None)
    assert all((b["category_id"], b["bbox_mode"]) == (0, BoxMode.XYWH_ABS) for b in boxes)
    assert (second["ID"], second["image_id"], second["annotations"]) == ("273272,0", 2, [])


def test_training_clips_boxes_and_leaves_out_what_is_ignored(registered):
    lines = [{**TWO[0], "gtboxes": [*TWO[0]["gtboxes"], person([70, 0, 9, 9]), person([5, 5, 0, 9])]}, TWO[1]]
    name = registered("crowd_clip", lines)
    cfg = config("DATASETS.TRAIN", (name,), "INPUT.MIN_SIZE_TRAIN", (80,), "INPUT.RANDOM_FLIP", "none")
    (record,) = train_dicts(cfg)
    assert [a["bbox"] for a in record["annotations"] if not a["iscrowd"]] == [[0, 5, 20, 35], [6, 5, 10, 20]]
    instances = RobustMapper(cfg, True)(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 10, 40, 80], [12, 10, 32, 50]]
    assert instances.gt_classes.tolist() == [0, 0]


def test_evaluation_sees_the_same_boxes_unclipped(registered):
    name = registered("crowd_truth", TWO)
    truth = crowdhuman_truth(name)
    assert list(truth) == ["273271,c9db000d5146c15", "273272,0"]
    first = truth["273271,c9db000d5146c15"]
    records = DatasetCatalog.get(name)
    assert first.boxes.tolist() == [a["bbox"] for a in records[0]["annotations"]]
    assert first.ignored.tolist() == [bool(a["iscrowd"]) for a in records[0]["annotations"]]
    assert (first.size, truth["273272,0"].size) == ((40, 60), (40, 60))
    metadata = MetadataCatalog.get(name)
    assert (metadata.evaluator_type, metadata.thing_classes) == ("crowdhuman", ["person"])


def test_the_projects_own_sets_are_registered_lazily(tmp_path):
    names = [f"{prefix}_{split}" for prefix in ("crowdhuman", "quick_crowd") for split in ("train", "val")]
    assert set(names) <= set(DatasetCatalog.list())
    for name in names:
        folder = "CrowdHuman" if name.startswith("crowdhuman") else "quick_crowd"
        odgt = Path(MetadataCatalog.get(name).odgt_file)
        assert odgt.parts[-2:] == (folder, f"annotation_{name.rpartition('_')[2]}.odgt")
    register_all(str(tmp_path))  # names that are taken stay


# What is missing


def test_a_missing_odgt_is_named_before_a_run(registered, crowd):
    name = registered("crowd_without_odgt", TWO)
    os.unlink(MetadataCatalog.get(name).odgt_file)
    cfg = config("DATASETS.TRAIN", (name,), "DATASETS.TEST", ())
    with pytest.raises(
        FileNotFoundError, match=r"DATASETS.TRAIN: crowd_without_odgt: .*annotation_val.odgt does not exist"
    ):
        check_datasets(cfg, eval_only=False)


def test_missing_files_say_where_to_put_them(tmp_path):
    root = tmp_path / "CrowdHuman"
    root.mkdir()
    odgt, images = root / "annotation_val.odgt", root / "Images"
    with pytest.raises(FileNotFoundError) as error:
        read_crowdhuman(odgt, images)
    for part in (str(odgt), f"{images}/ID.jpg", "crowdhuman.org", "DETECTRON2_DATASETS"):
        assert part in str(error.value)
    (root / "CrowdHuman_val.zip").touch()
    odgt.write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"Images/: missing.*Unpack CrowdHuman_val.zip"):
        read_crowdhuman(odgt, images)
    images.mkdir()
    odgt.write_text('{"ID": "1,a", "gtboxes": []}')
    with pytest.raises(UnreadableImageError, match=r"holds none of the first images.*1,a\.jpg.*this one folder"):
        read_crowdhuman(odgt, images)


@pytest.mark.parametrize("lines, reason", [([], "it is empty"), (["{"], "of 1 the first: line 1: not valid JSON")])
def test_annotations_of_no_use_are_refused(crowd, lines, reason):
    with pytest.raises(ValueError, match=reason):
        read_crowdhuman(*crowd(lines))


def test_flaws_are_counted_and_found_again(crowd, caplog):
    good = {"ID": "good", "gtboxes": [person([1, 2, 0, 4]), person([60, 0, 5, 5]), person([59, 0, 5, 5])]}
    far = {"ID": "far", "gtboxes": [person([0, 0, 1e300, 1e300])]}
    lines = [good, "no json", {"ID": "../up", "gtboxes": []}, {"ID": "gone", "gtboxes": []}, good, far]
    odgt, images = crowd(lines, images=["good", "far"])
    with caplog.at_level(logging.WARNING):
        records = load_crowdhuman(odgt, images, expected=3)
    assert [(r["ID"], r.get("height")) for r in records] == [("good", 40), ("gone", None)]
    assert len(records[0]["annotations"]) == 3
    text = caplog.text
    assert "4 lines that cannot be used: skipped (first: line 2: not valid JSON" in text
    assert (
        "1 boxes without area: the metrics count them, training skips them (first: good, (1.0, 2.0, 0.0, 4.0))" in text
    )
    assert "1 boxes outside the image" in text and "1 images that cannot be read (first: gone.jpg: FileNotFound" in text
    assert "2 images are not the 3 of the official file" in text


def test_no_warning_where_nothing_is_wrong(crowd, caplog):
    with caplog.at_level(logging.WARNING):
        load_crowdhuman(*crowd(TWO), expected=2)
    assert not caplog.records


def test_missing_images_are_skipped_in_training_and_refused_in_evaluation(registered):
    lines = [TWO[0], {"ID": "gone", "gtboxes": [person([1, 1, 9, 9])]}]
    name = registered("crowd_gone", lines, images=[TWO[0]["ID"]])
    cfg = config("DATASETS.TRAIN", (name,), "DATASETS.TEST", (name,))
    assert [r["ID"] for r in train_dicts(cfg)] == [TWO[0]["ID"]]
    with pytest.raises(UnreadableImageError, match=r"1 of 2 images cannot be read, first .*gone\.jpg"):
        build_test_loader(cfg, name)


@pytest.mark.parametrize(
    "box, flaw",
    [
        ([0, 0, 5, 5], ""),
        ([-5, 0, 5, 5], "outside"),  # touches the border from outside
        ([-5, 0, 5.5, 5], ""),
        ([60, 0, 5, 5], "outside"),
        ([0, 40, 5, 5], "outside"),
        ([0, -5, 5, 5], "outside"),
        ([3, 3, -1, 5], "without area"),
        ([3, 3, 5, 0], "without area"),
    ],
)
def test_box_flaws(box, flaw):
    assert flaw in box_flaw(tuple(box), (40, 60)) and bool(flaw) == bool(box_flaw(tuple(box), (40, 60)))


# Sizes


@pytest.fixture
def probes(monkeypatch):
    """The paths whose headers were read."""
    seen = []

    def probe(path):
        seen.append(os.path.basename(path))
        return crowdhuman_sizes_probe(path)

    crowdhuman_sizes_probe = crowdhuman_sizes.probe_header
    monkeypatch.setattr(crowdhuman_sizes, "probe_header", probe)
    return seen


def test_sizes_are_read_once(crowd, probes, tmp_path):
    odgt, images = crowd(TWO)
    assert image_sizes(odgt, images, ["273272,0"]) == {"273272,0": (40, 60)}
    assert load_crowdhuman(odgt, images) == load_crowdhuman(odgt, images)
    assert sorted(probes) == ["273271,c9db000d5146c15.jpg", "273272,0.jpg"]
    assert (tmp_path / "annotation_val.sizes.json").is_file()


@pytest.mark.parametrize("change", ["bytes", "mtime", "place", "broken", "bad sizes"])
def test_a_cache_of_something_else_is_not_used(crowd, probes, tmp_path, change):
    odgt, images = crowd(TWO)
    image_sizes(odgt, images, ["273272,0"])
    cache = tmp_path / "annotation_val.sizes.json"
    if change == "bytes":
        state = os.stat(odgt)
        Path(odgt).write_text(Path(odgt).read_text() + "\n")
        os.utime(odgt, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "mtime":
        os.utime(odgt, ns=(0, 0))
    elif change == "place":
        os.rename(images, tmp_path / "Other")
        images = str(tmp_path / "Other")
    else:
        content = json.loads(cache.read_text())
        content["sizes"]["273272,0"] = [40, "60"]
        cache.write_text("{" if change == "broken" else json.dumps(content))
    assert image_sizes(odgt, images, ["273272,0"]) == {"273272,0": (40, 60)}
    assert probes == ["273272,0.jpg"] * 2


def test_what_cannot_be_read_is_tried_again(crowd, probes):
    odgt, images = crowd(TWO, images=["273272,0"])
    ids = [line["ID"] for line in TWO]
    assert "FileNotFoundError" in image_sizes(odgt, images, ids)[ids[0]]
    Image.new("RGB", (7, 9)).save(os.path.join(images, f"{ids[0]}.jpg"))
    assert image_sizes(odgt, images, ids) == {ids[0]: (9, 7), ids[1]: (40, 60)}
    assert probes.count("273272,0.jpg") == 1


def test_a_folder_that_cannot_be_written_has_its_cache_elsewhere(crowd, probes, tmp_path, monkeypatch, caplog):
    odgt, images = crowd(TWO)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "annotation_val.sizes.json").mkdir()  # cannot be replaced by a file, by root neither
    for _ in range(2):
        assert image_sizes(odgt, images, ["273272,0"]) == {"273272,0": (40, 60)}
    assert len(probes) == 1
    (written,) = (tmp_path / "cache" / "defcn_ext").iterdir()
    written.unlink()
    written.mkdir()
    assert image_sizes(odgt, images, ["273272,0"]) == {"273272,0": (40, 60)}
    assert "cannot be cached" in caplog.text
    assert not [p for p in tmp_path.rglob(".*")]


def test_a_reading_that_was_stopped_goes_on(crowd, probes, monkeypatch):
    ids = [f"{n},x" for n in range(20)]
    odgt, images = crowd([{"ID": i, "gtboxes": []} for i in ids])
    monkeypatch.setattr(crowdhuman_sizes, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(crowdhuman_sizes, "PROGRESS_SECONDS", 0.0)
    told = []

    def stop(done, total, seconds_left):
        told.append((done, total))
        assert seconds_left >= 0
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        image_sizes(odgt, images, ids, workers=1, progress=stop)
    assert told[-1] == (12, 20)
    probes.clear()
    told.clear()
    assert len(image_sizes(odgt, images, ids, workers=1, progress=lambda *args: told.append(args[:2]))) == 20
    assert probes == [f"{i}.jpg" for i in ids[12:]] and told[-1] == (20, 20)


def test_a_size_in_the_annotations_is_taken(crowd, probes):
    lines = [{**TWO[0], "height": 400, "width": 600}, {**TWO[1], "height": 1.5, "width": 2}]
    sizes = read_crowdhuman(*crowd(lines)).sizes
    assert sizes == {TWO[0]["ID"]: (400, 600), TWO[1]["ID"]: (40, 60)} and probes == ["273272,0.jpg"]


# Any bytes


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["ID", "fbox", "ignore"]), inner),
    max_leaves=6,
)
NUMBERS = st.integers(-50, 120) | st.floats(-1e3, 1e3)
BOXES = st.fixed_dictionaries(
    {"tag": st.sampled_from(["person", "mask"]) | VALUES, "fbox": st.lists(NUMBERS, min_size=4, max_size=4) | VALUES},
    optional={"vbox": VALUES, "hbox": VALUES, "extra": st.fixed_dictionaries({"ignore": st.sampled_from([0, 1])})},
)
LINES = st.fixed_dictionaries(
    {"ID": st.text("ab,." + string.digits, min_size=1, max_size=3) | VALUES, "gtboxes": st.lists(BOXES) | VALUES}
)
RAW = st.binary(max_size=20) | LINES.map(lambda line: json.dumps(line).encode())


@given(raw=st.lists(RAW, max_size=6), cut=st.integers(0, 400), flip=st.integers(0, 255))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_gives_records_or_says_what_is_wrong(tmp_path_factory, raw, cut, flip):
    """Damaged lines between two good ones, with one byte of it all changed."""
    folder = tmp_path_factory.mktemp("fuzz", numbered=True)
    Image.new("RGB", (60, 40)).save(folder / "good.jpg")
    good = b'{"ID": "good", "gtboxes": [{"tag": "person", "fbox": [1, 2, 30, 40]}]}'
    content = bytearray(b"\n".join([*raw, b"", good]))
    if cut < len(content) - len(good) - 2:
        content[cut] = flip
    (folder / "a.odgt").write_bytes(content)
    found = read_crowdhuman(folder / "a.odgt", folder)
    used = sum(bool(line.strip()) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    assert len(found.lines) + len(found.bad) == used
    assert len({line.id for line in found.lines}) == len(found.lines) == len(found.sizes)
    assert all(found.sizes[line.id] == (40, 60) for line in found.lines if line.id == "good")
    assert found.flaws().counts.get("lines that cannot be used: skipped", 0) == len(found.bad)
    for record in load_crowdhuman(str(folder / "a.odgt"), str(folder)):
        assert os.path.dirname(record["file_name"]) == str(folder)
        for annotation in record["annotations"]:
            assert annotation["iscrowd"] in (0, 1) and all(abs(v) <= 1e9 for v in annotation["bbox"])


@given(cut=st.integers(0, 300), flip=st.integers(0, 255), more=st.binary(max_size=8))
@settings(deadline=None, max_examples=60)
def test_a_damaged_cache_is_read_anew_or_holds_sizes(tmp_path_factory, cut, flip, more):
    folder = tmp_path_factory.mktemp("cache", numbered=True)
    Image.new("RGB", (60, 40)).save(folder / "good.jpg")
    (folder / "a.odgt").write_text("{}")
    image_sizes(folder / "a.odgt", folder, ["good"])
    cache = folder / "a.sizes.json"
    content = bytearray(cache.read_bytes())
    content[cut % len(content) : cut % len(content) + 1] = bytes([flip]) + more
    cache.write_bytes(content)
    sizes = image_sizes(folder / "a.odgt", folder, ["good"])
    assert list(sizes) == ["good"] and all(type(side) is int and side > 0 for side in sizes["good"])
    try:
        unchanged = json.loads(content)["sizes"]["good"] == list(sizes["good"])  # another number, as good as any
    except (ValueError, KeyError, TypeError):
        unchanged = False
    assert unchanged or sizes["good"] == (40, 60)
