"""What a run goes on from: a damaged checkpoint is found and passed over, one of another run is refused."""

import copy
import logging
import random
import shutil

import pytest
import torch

from defcn_ext.checkpoint.entries import entries
from defcn_ext.engine.fit import DamagedError, OtherRunError
from defcn_ext.engine.resume import check_resumable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import hooks
from tests.engine import tiny
from tests.engine.tiny import TinyNet, TinyTrainer, tiny_cfg

EMA = ("SOLVER.EMA.ENABLED", True)
ADAMW = ("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 1e-3)


class WideNet(TinyNet):
    """Another model: its head has three outputs."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.head = torch.nn.Linear(8, 3)


class LongNet(TinyNet):
    """Another model, with all of those entries and more: as where a filter or a branch is switched on."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.filter = torch.nn.Linear(8, 3)


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    yield tiny.write_dataset(tmp_path_factory.mktemp("data"))
    DatasetCatalog.remove(tiny.NAME)
    MetadataCatalog.remove(tiny.NAME)


@pytest.fixture(scope="module")
def runs(entry, tmp_path_factory):
    """Folder of a finished run by the name of its optimizer; checkpoints are of iterations 2, 5 and the end."""
    folders = {}
    for name, opts in {"sgd": EMA, "adamw": ADAMW}.items():
        folders[name] = tmp_path_factory.mktemp(name)
        tiny.run(tiny_cfg(entry, folders[name], *opts))
    return folders


@pytest.fixture
def made(entry, runs, tmp_path):
    """Name, options -> a fresh trainer over a copy of that run, and the copy's folder."""

    def make(name, *opts):
        folder = tmp_path / name
        shutil.copytree(runs[name], folder)
        return TinyTrainer(tiny_cfg(entry, folder, *(EMA if name == "sgd" else ADAMW), *opts)), folder

    return make


def put(content, path, value=None):
    """Sets the entry at "a/b/0", or removes it."""
    *parents, last = path.split("/")
    for part in parents:
        content = content[_key(content, part)]
    if value is None:
        del content[_key(content, last)]
    else:
        content[_key(content, last)] = value


def _key(content, part):
    return int(part) if isinstance(content, list) or (isinstance(content, dict) and part not in content) else part


def damage(path, entry, value=None):
    content = torch.load(path, weights_only=True)
    put(content, entry, value)
    torch.save(content, path)


def check(trainer, path):
    check_resumable(path, trainer.checkpointer.model, trainer.checkpointer.checkpointables)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_no_entry_may_be_lost_or_be_infinite(made, name):
    trainer, folder = made(name)
    path = folder / "model_final.pth"
    check(trainer, path)
    whole = torch.load(path, weights_only=True)
    found = [
        (p, v)
        for p, v in entries(whole)
        if not p.startswith(("trainer/entries/", "iteration", "config", "thing_classes"))
    ]
    assert len(found) > 30
    for place, value in found:
        if "betas" not in place:  # a tuple, which has no gaps
            changed = copy.deepcopy(whole)
            put(changed, place)
            torch.save(changed, path)
            with pytest.raises((DamagedError, OtherRunError), match=r"model_final\.pth: "):
                check(trainer, path)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            changed = copy.deepcopy(whole)
            put(changed, place, torch.full_like(value, float("nan")))
            torch.save(changed, path)
            with pytest.raises(DamagedError, match=rf"model_final\.pth: {place} is not finite"):
                check(trainer, path)


def test_a_flipped_bit_is_found(made):
    """torch.load itself returns other weights, without a word."""
    trainer, folder = made("sgd")
    path = folder / "model_final.pth"
    whole, draw = path.read_bytes(), random.Random(0)
    expected = dict(entries(torch.load(path, weights_only=True)))
    refused = 0
    for _ in range(40):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            check(trainer, path)
        except DamagedError:
            refused += 1
            continue
        found = dict(entries(torch.load(path, weights_only=True)))
        assert found.keys() == expected.keys()
        assert all(torch.equal(v, found[k]) if torch.is_tensor(v) else v == found[k] for k, v in expected.items())
    assert refused > 20


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("trainer/hooks", {}, "incomplete, it has no entry trainer/hooks/WeightAverage/raw"),
        ("trainer/hooks", 3, "incomplete, it has no entry trainer/hooks/WeightAverage/raw"),
        ("trainer", {}, "incomplete.*optimizer"),
        ("trainer", None, "no entry trainer$"),
        ("trainer/_trainer", [1], "damaged|incomplete"),
        ("trainer/iteration", 3, "iteration 3, .*iteration 5 .*last_epoch 6 contradict"),
        ("trainer/iteration", "5", "iteration is a str, where a number belongs"),
        ("trainer/hooks/LRScheduler/last_epoch", 2, "last_epoch 2 contradict"),
        ("trainer/hooks/WeightAverage/raw/head.bias", torch.zeros(3), "raw/head.bias is a tensor of 3, where .* 2"),
        ("model/head.bias", torch.tensor([1.0, float("-inf")]), "model/head.bias is not finite"),
    ],
)
def test_damage_is_passed_over_with_one_line(made, caplog, place, value, message):
    trainer, folder = made("sgd")
    damage(folder / "model_final.pth", place, value)
    with pytest.raises(DamagedError, match=message):
        check(trainer, folder / "model_final.pth")
    with caplog.at_level(logging.WARNING, logger="defcn_ext"):
        trainer.resume_or_load(resume=True)
    lines = [r.getMessage() for r in caplog.records if "going on from" in r.getMessage()]
    assert len(lines) == 1 and "\n" not in lines[0]
    assert lines[0].startswith(f"{folder / 'model_final.pth'}: ")
    assert lines[0].endswith(f"; going on from {folder / 'model_0000005.pth'} instead")
    assert trainer.start_iter == 6


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\0" * 4096])
def test_torn_files_are_passed_over(made, content):
    trainer, folder = made("sgd")
    for name in ("model_final.pth", "model_0000005.pth"):
        (folder / name).write_bytes(content)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 3


@pytest.mark.parametrize("pointer", [b"", b"\0" * 15, b"\xff\xfe", b"model_0000099.pth", b"inference"])
def test_a_pointer_to_nothing_is_passed_over(made, pointer):
    trainer, folder = made("sgd")
    (folder / "inference").mkdir(exist_ok=True)
    (folder / "last_checkpoint").write_bytes(pointer)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 6


def test_nothing_good_is_left(made):
    trainer, folder = made("sgd")
    for path in folder.glob("*.pth"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedError, match=r"model_final\.pth: truncated.* holds no other checkpoint that is whole"):
        trainer.resume_or_load(resume=True)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("SOLVER.OPTIMIZER", "ADAMW"), r"another optimizer \(it has no 'betas', and here is AdamW\)"),
        (
            ("MODEL.META_ARCHITECTURE", "WideNet"),
            r"another model \(model/head.weight is .* 2x8, here .* 3x8, and 1 more",
        ),
        (
            ("MODEL.META_ARCHITECTURE", "LongNet"),
            r"another model \(it has no entry model/filter\.weight, and 1 more\)",
        ),
        (
            ("SOLVER.BIAS_LR_FACTOR", 2.0),
            r"another model or optimizer \(of \[4, 2\] parameters in its groups, here \[2, 2, 1, 1\]",
        ),
        (
            ("SOLVER.EMA.ENABLED", False),
            r"another trainer \(trainer/hooks/WeightAverage is of a hook that this run lacks",
        ),
    ],
)
def test_another_run_is_refused_with_the_way_out(made, monkeypatch, opts, message):
    from detectron2.modeling import META_ARCH_REGISTRY

    for kind in (WideNet, LongNet):
        monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, kind.__name__, kind)
    trainer, _ = made("sgd", *opts)
    with pytest.raises(
        OtherRunError, match=rf"model_final\.pth: of {message}.*MODEL\.WEIGHTS, with another OUTPUT_DIR"
    ):
        trainer.resume_or_load(resume=True)


def test_an_average_that_begins_late_is_refused(made):
    trainer, _ = made("adamw", *EMA)
    with pytest.raises(OtherRunError, match=r"no entry trainer/hooks/WeightAverage/raw"):
        trainer.resume_or_load(resume=True)


def test_a_checkpoint_of_detectron2s_own_trainer_is_gone_on_from(made):
    """It has no seed and no list of entries; that its schedule is there is checked all the same."""
    trainer, folder = made("adamw")
    path = folder / "model_final.pth"
    for name in ("entries", "_trainer/seed"):
        damage(path, f"trainer/{name}")
    check(trainer, path)
    damage(path, "trainer/hooks/LRScheduler")
    with pytest.raises(DamagedError, match="incomplete, it has no entry trainer/hooks/LRScheduler/base_lrs/0"):
        check(trainer, path)


def test_evaluation_needs_only_the_model(made):
    from defcn_ext.engine.checkpointer import Checkpointer

    trainer, folder = made("sgd")
    damage(folder / "model_final.pth", "trainer")
    model = TinyNet(trainer.cfg)
    Checkpointer(model, str(folder)).resume_or_load("", resume=True)
    saved = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_what_is_saved_after_the_training_is_gone_on_from_at_the_same_place(made):
    """Detectron2's BestCheckpointer saves there, when the trainer's own number is one ahead."""
    trainer, folder = made("sgd", "SOLVER.MAX_ITER", 7)
    best = hooks.BestCheckpointer(0, trainer.checkpointer, "bbox/mean")
    trainer.resume_or_load(resume=True)
    trainer.register_hooks([hooks.CallbackHook(after_train=lambda t: t.storage.put_scalar("bbox/mean", 1.0)), best])
    trainer.train()
    assert (folder / "last_checkpoint").read_text() == "model_best.pth"
    again = TinyTrainer(trainer.cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 7


@pytest.mark.parametrize(("length", "lines"), [(6, 1), (4, 1), (7, 0)])
def test_a_finished_run_says_so(made, caplog, length, lines):
    trainer, _ = made("adamw", "SOLVER.MAX_ITER", length, "SOLVER.STEPS", (3,))
    with caplog.at_level(logging.WARNING, logger="defcn_ext"):
        trainer.resume_or_load(resume=True)
    said = [r.getMessage() for r in caplog.records if "nothing is left to train" in r.getMessage()]
    assert len(said) == lines and all(f"6 iterations are done and SOLVER.MAX_ITER is {length}" in line for line in said)


def test_a_run_that_was_killed_before_its_final_save_gets_it(made, runs):
    """Also where a final checkpoint of a shorter run, or a damaged one, lies there."""
    trainer, folder = made("sgd")
    (folder / "model_final.pth").write_bytes(b"of a shorter run")
    (folder / "last_checkpoint").write_text("model_0000005.pth")
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 6 and (folder / "last_checkpoint").read_text() == "model_final.pth"
    found, expected = (dict(entries(torch.load(f / "model_final.pth"))) for f in (folder, runs["sgd"]))
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(v, found[k]) if torch.is_tensor(v) else v == found[k] for k, v in expected.items() if "OUT" not in k
    )
