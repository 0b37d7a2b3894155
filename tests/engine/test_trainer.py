import json
import logging

import pytest
import torch

from defcn_ext.engine import trainer as trainer_module
from detectron2.checkpoint import DetectionCheckpointer
from tests.engine.tiny import NAME, TinyNet, TinyTrainer, run, tiny_cfg
from tests.tiny import ALL as DETECTORS
from tests.tiny import tiny_cfg as detector_cfg

EVERYTHING = (
    *("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.5, "SOLVER.ACCUMULATE", 2, "SOLVER.OPTIMIZER", "ADAMW"),
    *("SOLVER.ONE_CYCLE.ENABLED", True, "SOLVER.CLIP_GRADIENTS.ENABLED", True),
    *("SOLVER.CLIP_GRADIENTS.FULL_MODEL", True, "SOLVER.BASE_LR", 0.01, "MODEL.CHANNELS_LAST", True),
)


def assert_same(a, b, path="checkpoint"):
    """Bit for bit, through nested dicts and lists."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def load(folder, name="model_final.pth"):
    return torch.load(folder / name, weights_only=True)


def stop_after(monkeypatch, steps: int):
    """The process dies in step number `steps`."""
    original = TinyTrainer.run_step

    def step(self):
        if self.iter == steps:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(TinyTrainer, "run_step", step)


@pytest.mark.parametrize("seed", [3, -1])
@pytest.mark.parametrize("opts", [(), EVERYTHING], ids=["defaults", "everything"])
def test_resumed_run_is_the_unbroken_one_bit_for_bit(tiny_entry, tmp_path, monkeypatch, opts, seed):
    monkeypatch.setattr("os.urandom", lambda n: bytes([9] * n))  # both runs draw the same seed ...
    whole = run(tiny_cfg(tiny_entry, tmp_path / "whole", "SEED", seed, *opts))

    broken = tiny_cfg(tiny_entry, tmp_path / "broken", "SEED", seed, *opts)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 5)  # after the checkpoint of iteration 2
        run(broken)
    monkeypatch.setattr("os.urandom", lambda n: bytes([4] * n))  # ... which the resumed one must not draw again
    torch.manual_seed(99)
    resumed = TinyTrainer(broken)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3
    resumed.train()

    assert resumed.model.seen == whole.model.seen[12:]
    assert_same(load(tmp_path / "broken"), load(tmp_path / "whole"))
    assert resumed.results == whole.results


def test_resumed_training_of_date_is_the_unbroken_one(tiny_entry, tmp_path, monkeypatch):
    """Two branches with AdamW and clipping: nothing of them lives outside the checkpoint."""
    solver = ("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 4e-4, "SOLVER.CLIP_GRADIENTS.ENABLED", True)
    detector = detector_cfg(*DETECTORS["date_f"], "MODEL.DEFCN.NUM_CLASSES", 1).MODEL
    configs = []
    for name in ("whole", "broken"):
        configs.append(tiny_cfg(tiny_entry, tmp_path / name, *solver, "SOLVER.CHECKPOINT_PERIOD", 2))
        configs[-1].MODEL = detector.clone()
    run(configs[0])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 3)
        run(configs[1])
    torch.manual_seed(99)
    resumed = TinyTrainer(configs[1])
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    resumed.train()
    assert_same(load(tmp_path / "broken"), load(tmp_path / "whole"))


def test_seed_fixes_order_augmentation_and_noise(tiny_entry, tmp_path):
    finals = []
    for i, seed in enumerate((3, 3, 4, -1, -1)):
        trainer = run(tiny_cfg(tiny_entry, tmp_path / str(i), "SEED", seed, "DATALOADER.NUM_WORKERS", 0))
        finals.append((trainer.model.seen, trainer.model.head.weight.tolist()))
    assert finals[0] == finals[1]
    orders = [order for order, _ in finals[1:]]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_workers_do_not_change_the_result(tiny_entry, tmp_path):
    finals = [
        run(tiny_cfg(tiny_entry, tmp_path / str(n), "DATALOADER.NUM_WORKERS", n)).model.state_dict() for n in (0, 2)
    ]
    assert_same(*finals)


def test_accumulation_takes_the_same_images_and_the_same_steps(tiny_entry, tmp_path):
    models = []
    for parts in (1, 2):
        cfg = tiny_cfg(tiny_entry, tmp_path / str(parts), "SOLVER.ACCUMULATE", parts)
        cfg.MODEL.DROPOUT = 0.0
        models.append(run(cfg).model)
    assert models[0].seen == models[1].seen and len(models[0].seen) == 24
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_average_is_evaluated_and_written_while_training_keeps_its_own_weights(tiny_entry, tmp_path):
    opts = ("SOLVER.EMA.ENABLED", True, "DATASETS.TEST", (NAME,), "TEST.EVAL_PERIOD", 2)
    plain = run(tiny_cfg(tiny_entry, tmp_path / "plain", *opts[2:]))
    averaged = run(tiny_cfg(tiny_entry, tmp_path / "ema", *opts))
    assert_same(dict(plain.model.state_dict()), dict(averaged.model.state_dict()))

    saved = load(tmp_path / "ema")
    assert_same(dict(saved["trainer"]["hooks"]["WeightAverage"]["raw"]), dict(load(tmp_path / "plain")["model"]))
    assert not torch.equal(saved["model"]["head.weight"], averaged.model.head.weight)
    # any reader of the checkpoint gets what was evaluated
    reader = TinyNet(averaged.cfg)
    DetectionCheckpointer(reader).load(str(tmp_path / "ema" / "model_final.pth"))
    assert TinyTrainer.test(averaged.cfg, reader) == averaged.results != plain.results


def test_checkpoint_has_detectron2s_layout(tiny_entry, tmp_path):
    run(tiny_cfg(tiny_entry, tmp_path / "out"))
    saved = load(tmp_path / "out")
    assert list(saved) == ["model", "trainer", "config", "thing_classes", "iteration"] and saved["iteration"] == 5
    assert saved["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 6
    assert set(saved["trainer"]["_trainer"]) == {"iteration", "optimizer", "seed"}
    assert sorted(p.name for p in (tmp_path / "out").glob("*.pth")) == [
        "model_0000002.pth",
        "model_0000005.pth",
        "model_final.pth",
    ]


def test_what_a_run_shows(tiny_entry, tmp_path, caplog):
    cfg = tiny_cfg(tiny_entry, tmp_path / "out", "DATASETS.TEST", (NAME,), "TEST.EVAL_PERIOD", 3)
    with caplog.at_level(logging.INFO, logger="defcn_ext"):
        trainer = run(cfg)
    lines = [r.getMessage() for r in caplog.records if r.name == "defcn_ext.engine.console"]
    assert "iter: 6/6" in lines[-1] and len(lines) == 2  # written as often as evaluated
    for field in ("eta: 0:00:00", "total_loss: ", "loss_area: ", "time: ", "data_time: ", "lr: ", "mem: "):
        assert field in lines[-1]

    rows = {row["iteration"]: row for row in map(json.loads, (tmp_path / "out" / "metrics.json").open())}
    assert set(rows) == {2, 5, 6}  # evaluated after iterations 2 and 5, the last time as iteration 6
    assert 10 < rows[5]["memory_mb"] < 1e6
    assert rows[5]["eta_seconds"] == 0.0
    assert {"lr", "data_time", "total_loss", "loss_area", "loss_count"} <= set(rows[5])
    assert rows[2]["bbox/mean"] != rows[6]["bbox/mean"] == pytest.approx(trainer.results["bbox"]["mean"])
    assert list((tmp_path / "out").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_amp_on_the_cpu(tiny_entry, tmp_path, dtype):
    trainer = run(tiny_cfg(tiny_entry, tmp_path / "out", "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype))
    assert trainer.model.dtypes == {getattr(torch, dtype)}
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_classes_are_checked_without_the_script_too(tiny_entry, tmp_path, key):
    opts = ("MODEL.META_ARCHITECTURE", "DeFCN", "MODEL.DEFCN.NUM_CLASSES", 7, "DATASETS.TRAIN", ())
    with pytest.raises(ValueError, match="NUM_CLASSES is 7, but tiny_train has 1"):
        TinyTrainer(tiny_cfg(tiny_entry, tmp_path / "out", *opts, f"DATASETS.{key}", (NAME,)))


def test_unknown_amp_type(tiny_entry, tmp_path):
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.DTYPE.*'fp16'.*float16, bfloat16"):
        TinyTrainer(tiny_cfg(tiny_entry, tmp_path / "out", "SOLVER.AMP.DTYPE", "fp16"))


def test_channels_last_changes_the_memory_format_and_not_the_result(tiny_entry, tmp_path):
    runs = [run(tiny_cfg(tiny_entry, tmp_path / str(on), "MODEL.CHANNELS_LAST", on)).model for on in (False, True)]
    strides = [model.backbone[0].weight.is_contiguous(memory_format=torch.channels_last) for model in runs]
    assert strides == [False, True]
    for a, b in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sets, folders", [(1, ["inference"]), (2, ["inference/a", "inference/b"])])
def test_evaluators_of_several_sets_do_not_share_a_folder(tiny_entry, tmp_path, monkeypatch, sets, folders):
    import defcn_ext.evaluation

    found = []
    monkeypatch.setattr(
        defcn_ext.evaluation, "build_evaluator", lambda cfg, name, folder: found.append(folder), raising=False
    )
    names = ("a", "b")[:sets]
    cfg = tiny_cfg(tiny_entry, tmp_path, "DATASETS.TEST", names)
    for name in names:
        trainer_module.Trainer.build_evaluator(cfg, name)
    assert found == [str(tmp_path / folder) for folder in folders]
