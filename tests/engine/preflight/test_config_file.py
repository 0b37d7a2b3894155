import pytest
import torch

from defcn_ext.config import UserError
from defcn_ext.engine.preflight import config_file, load_config


@pytest.mark.parametrize(
    "opts, message",
    [
        (["SOLVER.BASE_LRR", "1.0"], r"SOLVER\.BASE_LRR; did you mean SOLVER\.BASE_LR"),
        (["MODEL.DEFCN.NUM_CLASES", "1"], r"did you mean MODEL\.DEFCN\.NUM_CLASSES"),
        (["INPUT.BASE_LR", "1.0"], r"INPUT\.BASE_LR; did you mean .*SOLVER\.BASE_LR"),
        (["SOLVER.MAX_ITER", "many"], r"SOLVER\.MAX_ITER"),
        (["SOLVER.MAX_ITER"], "odd|length|pairs"),
        (["MODEL", "3"], "MODEL"),
        (["OUTPUT_DIR", "out", "--resume"], "--resume stands behind KEY VALUE pairs: put all options before"),
    ],
)
def test_wrong_overrides(opts, message):
    with pytest.raises(UserError, match=message):
        load_config("", opts)


def test_wrong_file(tmp_path):
    with pytest.raises(UserError, match="none.yaml: no such file"):
        load_config(str(tmp_path / "none.yaml"), [])
    (tmp_path / "typo.yaml").write_text("VERSION: 2\nMODEL:\n  DEFCN:\n    SCORE_TRESH_TEST: 0.1\n")
    with pytest.raises(UserError, match=r"SCORE_TRESH_TEST; did you mean MODEL\.DEFCN\.SCORE_THRESH_TEST"):
        load_config(str(tmp_path / "typo.yaml"), [])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"MODEL: {WEIGHTS: [", "while parsing"),
        (b"", "KEY: VALUE"),
        (b"- MODEL", "KEY: VALUE"),
        (b"MODEL: 3", "MODEL: expected KEY: VALUE pairs below it, got 3$"),
        (b"_BASE_: gone.yaml", "gone.yaml"),
        (b"# \xe9t\xe9", "no text in UTF-8.*utf-8.*can't decode"),
        (b"PK\x03\x04\x00\x00archive/data.pkl", "no text in UTF-8, so no config"),
        (b"SEED: .inf", "SEED"),
        (b"VERSION: 2\nDATASETS: {REGISTER: 'x=a.json:img'}", 'expected a list of "NAME=JSON:IMAGE_DIR"'),
    ],
)
def test_a_file_that_is_no_config_is_named_in_one_line(tmp_path, content, message):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(UserError, match=f"c.yaml: .*{message}") as raised:
        load_config(str(tmp_path / "c.yaml"), [])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("files", [("a",), ("a", "b"), ("c", "a", "b", "d", "b")])
def test_a_circle_of_bases_is_named(tmp_path, files):
    for name, base in zip(files, (*files[1:], files[0])):
        (tmp_path / f"{name}.yaml").write_text(f"_BASE_: {base}.yaml\nVERSION: 2\n")
    with pytest.raises(UserError, match=rf"{files[0]}.yaml: _BASE_ goes in a circle: .*\.yaml -> .*\.yaml$") as raised:
        load_config(str(tmp_path / f"{files[0]}.yaml"), [])
    assert "\n" not in str(raised.value)


def test_a_base_that_is_no_config_is_named_with_the_file_that_wants_it(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: [b.yaml, c.yaml]\nVERSION: 2\n")
    (tmp_path / "b.yaml").write_text("VERSION: 2\n")
    (tmp_path / "c.yaml").write_text("MODEL: {DEFCN: {ONE_TO_ONE: [1, 2]}}")
    with pytest.raises(UserError, match=r"a.yaml: _BASE_ .*c.yaml: MODEL.DEFCN.ONE_TO_ONE: expected .* got a list"):
        load_config(str(tmp_path / "a.yaml"), [])


def test_bases_may_be_shared(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: [b.yaml, c.yaml]\nVERSION: 2\n")
    (tmp_path / "b.yaml").write_text("_BASE_: c.yaml\nSEED: 7\n")
    (tmp_path / "c.yaml").write_text("VERSION: 2\n")
    assert load_config(str(tmp_path / "a.yaml"), []).SEED == 7


def test_one_data_set_is_registered_without_brackets():
    assert load_config("", ["DATASETS.REGISTER", "x=a.json:img"]).DATASETS.REGISTER == ("x=a.json:img",)
    assert load_config("", ["DATASETS.REGISTER", "('x=a.json:img',)"]).DATASETS.REGISTER == ("x=a.json:img",)


def test_device_falls_back_with_one_warning(caplog, monkeypatch):
    config_file._tell_no_gpu.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [load_config("", []).MODEL.DEVICE for _ in range(2)] == ["cpu"] * 2
    assert [r.getMessage() for r in caplog.records] == ["MODEL.DEVICE cuda: no GPU is available, using the CPU"]
    caplog.clear()
    load_config("", ["MODEL.DEVICE", "cpu"])
    assert not caplog.records
