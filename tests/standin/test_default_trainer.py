"""The whole of a training from a config, against a run of Detectron2 with the same settings."""

import argparse
import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import (
    DefaultPredictor,
    DefaultTrainer,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from tests.conftest import FACTS
from tests.standin import says

GOLDEN = json.loads((FACTS / "golden_training.json").read_text())
SIZE = (30, 40)


@META_ARCH_REGISTRY.register()
class TinyTestDetector(nn.Module):
    """One conv, two losses, and a fixed box for each image."""

    def __init__(self, cfg):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4) if cfg.MODEL.RESNETS.NORM == "BN" else nn.Identity()
        self.inputs = None

    def forward(self, inputs):
        self.inputs = inputs
        self.grad_enabled = torch.is_grad_enabled()
        if not self.training:
            return [{"instances": self._instances(x)} for x in inputs]
        images = torch.stack([x["image"].float() / 255 for x in inputs])
        y = self.norm(self.conv(images))
        get_event_storage().put_scalar("num_gt", sum(len(x["instances"]) for x in inputs))
        get_event_storage().put_scalar("[metric]mine", 0.25)
        return {"loss_a": y.square().mean(), "loss_b": y.abs().mean()}

    def _instances(self, record):
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor([[2.0, 2.0, 14.0, 15.0]]))
        instances.scores = torch.tensor([0.5])
        instances.pred_classes = torch.tensor([0])
        return instances


class TinyTrainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory):
    """Six small images, registered twice."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.RandomState(0)
    images, annotations = [], []
    for index in range(6):
        Image.fromarray(rng.randint(0, 255, (*SIZE, 3), np.uint8)).save(folder / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "height": SIZE[0], "width": SIZE[1]})
        box = {"bbox": [2.0, 3.0, 12.0, 12.0], "area": 144.0, "iscrowd": 0}
        annotations.append({"id": index + 1, "image_id": index, "category_id": 1 + index % 2, **box})
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    path = folder / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    for name in ("tiny_train", "tiny_val"):
        register_coco_instances(name, {}, str(path), str(folder))
    yield
    for name in ("tiny_train", "tiny_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module", autouse=True)
def _loggers_as_before():
    """default_setup opens log files and writes to the terminal; both end with this module."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, propagate) in zip(loggers, before):
        logger.handlers[:], logger.propagate = handlers, propagate


def make_cfg(output: Path, *opts):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "TinyTestDetector"
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tiny_train",), ("tiny_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (24,), 24
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 25
    cfg.SOLVER.STEPS = (20,)  # inside the warm-up
    cfg.SOLVER.CHECKPOINT_PERIOD = cfg.TEST.EVAL_PERIOD = 10
    cfg.SEED = 3
    cfg.OUTPUT_DIR = str(output)
    cfg.merge_from_list(list(opts))
    return cfg


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.rows = []

    def emit(self, record):
        self.rows.append((record.name, record.levelname, record.getMessage()))


class Run:
    """What the recorded session did: set up, train 25 iterations, resume to 30, resume once more."""

    def __init__(self, output: Path):
        self.output = output
        self.seen = Records()
        for name in ("detectron2", "fvcore"):
            logging.getLogger(name).addHandler(self.seen)
        args = default_argument_parser().parse_args([])
        cfg = make_cfg(output)
        default_setup(cfg, args)
        self.setup_seed, self.setup_files = torch.initial_seed(), sorted(os.listdir(output))
        self.config_yaml, self.dump = (output / "config.yaml").read_text(), cfg.dump()
        self.setup_rows = self.take_rows()

        trainer = TinyTrainer(cfg)
        self.attributes = sorted(vars(trainer))
        trainer.resume_or_load(resume=False)
        self.seen.rows.clear()
        self.returned = trainer.train()
        self.rows = self.take_rows()
        self.files = {key: self.list_files(key) for key in ("", "inference")}
        self.checkpoints = {p.name: torch.load(p, weights_only=True) for p in output.glob("model*.pth")}
        self.metrics = self.read_metrics()

        resumed = TinyTrainer(make_cfg(output, "SOLVER.MAX_ITER", "30"))
        self.seen.rows.clear()
        resumed.resume_or_load(resume=True)
        self.resume_rows = self.take_rows()
        self.resumed = (resumed.start_iter, resumed.scheduler.last_epoch)
        changed = TinyTrainer(make_cfg(output, "SOLVER.MAX_ITER", "30", "SOLVER.BASE_LR", "0.5"))
        changed.resume_or_load(resume=True)
        self.changed_group, self.changed_scheduler = changed.optimizer.param_groups[0], changed.scheduler
        resumed.train()
        self.resumed_metrics = self.read_metrics()
        self.resumed_files = sorted(p.name for p in output.glob("model*.pth"))

    def take_rows(self):
        rows, self.seen.rows = self.seen.rows, []
        return rows

    def list_files(self, folder):
        return [
            re.sub(r"(events\.out\.tfevents)\..*", r"\1.<time>.<host>.<pid>.<n>", name)
            for name in sorted(os.listdir(self.output / folder))
        ]

    def read_metrics(self):
        return (self.output / "metrics.json").read_text().splitlines()


@pytest.fixture(scope="module")
def run(datasets, tmp_path_factory):
    finished = Run(tmp_path_factory.mktemp("run") / "o1")
    yield finished
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).removeHandler(finished.seen)


def describe(value):
    """The checkpoint's layout in the form of the facts."""
    if isinstance(value, torch.Tensor):
        return f"tensor{list(value.shape)}"
    return value if isinstance(value, int) else type(value).__name__


def test_argument_parser():
    parser = default_argument_parser()
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        kind = action.type.__name__ if action.type else None
        default = action.default
        if action.dest == "dist_url":
            port = 2**15 + 2**14 + hash(os.getuid()) % 2**14
            assert default == f"tcp://127.0.0.1:{port}"
            default = "tcp://127.0.0.1:<port>"
        row = {"flags": action.option_strings or [action.dest], "dest": action.dest, "default": default, "type": kind}
        found.append({**row, "nargs": action.nargs, "action": type(action).__name__})
    assert found == GOLDEN["default_argument_parser"]


def test_parsed_arguments():
    expected = GOLDEN["parsed_opts_example"]
    args = default_argument_parser().parse_args(expected["argv"])
    assert {key: getattr(args, key) for key in ("opts", "eval_only", "resume")} == {
        key: expected[key] for key in ("opts", "eval_only", "resume")
    }
    assert default_argument_parser().parse_args([]).opts == GOLDEN["parsed_no_opts"]
    assert "my epilog" in default_argument_parser("my epilog").format_help()


def test_default_setup(run):
    expected = GOLDEN["default_setup"]
    assert run.setup_files == expected["files"]
    assert (run.config_yaml == run.dump) == expected["config_yaml_equals_cfg_dump"]
    assert run.setup_seed == expected["torch_seed_is_SEED_plus_rank"]
    shown = [
        [name, level, text.splitlines()[0].replace(str(run.output), "<OUTPUT>/o1")]
        for name, level, text in run.setup_rows
    ]
    assert len(shown) == len(expected["log_lines_in_order"])
    for row, (name, level, start) in zip(shown, expected["log_lines_in_order"]):
        assert row[:2] == [name, level] and row[2].startswith(start)
    log = (run.output / "log.txt").read_text()
    assert all(row[2] in log.replace(str(run.output), "<OUTPUT>/o1") for row in shown)
    assert "fvcore.common.checkpoint INFO: Saving checkpoint" in log


@pytest.mark.parametrize("eval_only", [False, True])
def test_default_setup_cudnn_and_config_file(tmp_path, monkeypatch, eval_only):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    config = tmp_path / "my.yaml"
    config.write_text("SEED: 3\n")
    cfg = make_cfg(tmp_path / "o", "CUDNN_BENCHMARK", "True")
    default_setup(cfg, argparse.Namespace(eval_only=eval_only, config_file=str(config)))
    assert torch.backends.cudnn.benchmark is not eval_only
    log = re.sub(r"\x1b\[[\d;]*m", "", (tmp_path / "o" / "log.txt").read_text())  # coloured where pygments is there
    assert f"Contents of args.config_file={config}:\nSEED: 3\n" in log


def test_hooks(tmp_path):
    trainer = TinyTrainer(make_cfg(tmp_path))
    assert [type(hook).__name__ for hook in trainer._hooks] == GOLDEN["default_hooks_main_process"]
    for hook in trainer._hooks:
        expected = GOLDEN["hook_periods"][type(hook).__name__]
        assert {key: getattr(hook, key, getattr(hook, f"_{key}", "missing")) for key in expected} == expected
    assert [type(writer).__name__ for writer in trainer.build_writers()] == GOLDEN["writers"]


def test_hooks_of_other_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    trainer = TinyTrainer(make_cfg(tmp_path))
    assert [type(hook).__name__ for hook in trainer._hooks] == GOLDEN["default_hooks_other_ranks"]


@pytest.mark.parametrize(
    "norm, key", [("BN", "default_hooks_with_PRECISE_BN"), ("", "default_hooks_with_PRECISE_BN_but_no_BN_layers")]
)
def test_hooks_with_precise_bn(tmp_path, norm, key):
    opts = ("TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "2", "MODEL.RESNETS.NORM", norm)
    trainer = TinyTrainer(make_cfg(tmp_path, *opts, "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()"))
    assert [type(hook).__name__ for hook in trainer._hooks] == GOLDEN[key]
    trainer.train()
    scalars = trainer.storage.history("num_gt").values()
    assert len(scalars) == 1  # the batches of precise BN are not recorded


def test_trainer_attributes(run):
    assert run.attributes == GOLDEN["trainer_attributes"]


def test_wrapped_attributes_can_be_read_and_set(tmp_path):
    trainer = TinyTrainer(make_cfg(tmp_path))
    assert isinstance(trainer.model, TinyTestDetector)
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 0.001
    trainer.data_loader = [1]
    trainer.model = trainer.optimizer = None
    assert trainer._trainer.data_loader == [1] and trainer._trainer.model is trainer._trainer.optimizer is None


def test_files_of_a_training(run):
    assert str(run.returned) == GOLDEN["train_return_without_EXPECTED_RESULTS"]
    assert run.files == GOLDEN["files_after_training"]


def test_checkpoint(run):
    expected = GOLDEN["checkpoint"]
    final = run.checkpoints["model_final.pth"]
    assert list(final) == expected["top_level_keys"]
    trainer = final["trainer"]
    schedule, inner = trainer["hooks"]["LRScheduler"], trainer["_trainer"]
    found = {
        "model": {key: describe(value) for key, value in final["model"].items()},
        "trainer": {
            "iteration": trainer["iteration"],
            "hooks": {"LRScheduler": {**{k: describe(v) for k, v in schedule.items()}}},
            "_trainer": {
                "iteration": inner["iteration"],
                "optimizer": {key: describe(value) for key, value in inner["optimizer"].items()},
            },
        },
        "iteration": final["iteration"],
    }
    assert found == expected["content"]
    assert set(trainer) == {"iteration", "hooks", "_trainer"} and set(trainer["hooks"]) == {"LRScheduler"}
    assert set(inner) == {"iteration", "optimizer"}
    for name, iteration in expected["iteration_by_file"].items():
        assert run.checkpoints[name]["iteration"] == iteration
    for name, epoch in expected["scheduler_last_epoch_by_file"].items():
        assert run.checkpoints[name]["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == epoch


def test_metrics_file(run):
    expected = GOLDEN["metrics_json"]
    rows = [json.loads(line) for line in run.metrics]
    assert [row["iteration"] for row in rows] == expected["iterations_of_lines"]
    for row in rows:
        assert list(row) == sorted(row) == expected["keys_per_line"][str(row["iteration"])]
        rate = expected["lr_values"][str(row["iteration"])]
        assert row.get("lr") == (None if rate is None else pytest.approx(rate, rel=1e-9))


def test_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    expected = GOLDEN["tensorboard"]
    path = min(run.output.glob("events.*"), key=lambda p: p.stat().st_ctime_ns)
    events = EventAccumulator(str(path))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == expected["scalar_tags"]
    for tag, steps in expected["steps"].items():
        assert [event.step for event in events.Scalars(tag)] == steps


def test_printed_lines(run):
    expected = GOLDEN["metric_printer"]
    texts = [text for name, _, text in run.rows if name == "detectron2.utils.events"]
    assert len(texts) == expected["number_of_lines"]
    assert [int(re.search(r"iter: (\d+)", text).group(1)) for text in texts] == expected["iterations_printed"]

    def shape(text):
        text = re.sub(r"eta: \d+:\d\d:\d\d", "eta: <h:mm:ss>", text)
        text = re.sub(r"(?<!iter): [\d.e+-]+", ": <num>", text)
        return re.sub(r"max_mem: .*", "", text)

    assert [shape(text) for text in texts] == expected["lines_with_numbers_replaced"]


def shape_of_row(output, name, level, text):
    text = text.splitlines()[0].replace(str(output), "<OUTPUT>/o1")
    return [name, level, re.sub(r"\d+\.\d+(e-\d+)?", "<num>", text)]


def test_log_of_a_training(run):
    """The kinds of lines, in the order of their first appearance.

    Left out: how the data set is packed (`detectron2.data.common`, whose lines name a private class), and the file
    that the annotations come from, which lies elsewhere here.
    """

    def key(row):
        return (row[0], row[1], re.sub(r"/\S*\.json|<OUTPUT>\S*a\.json", "<json>", row[2])[:50])

    def kinds(rows):
        return list(dict.fromkeys(key(row) for row in rows if row[0] != "detectron2.data.common"))

    found = kinds(shape_of_row(run.output, *row) for row in run.rows if row[0] != "detectron2.utils.events")
    expected = kinds(GOLDEN["training_log_kinds_in_order_of_first_appearance"])

    def comparable(rows):
        return [(name, level, re.sub(r"[\d.:]+|<num>|nan|,|<json>.*", "", text)) for name, level, text in rows]

    assert list(dict.fromkeys(comparable(found))) == list(dict.fromkeys(comparable(expected)))


def test_resume(run):
    expected = GOLDEN["resume"]
    assert run.resumed == (expected["start_iter"], expected["lr_scheduler_last_epoch"])
    texts = [text.replace(str(run.output), "<OUTPUT>/o1") for *_, text in run.resume_rows]
    assert texts == expected["log"]
    assert run.resumed_files == expected["new_files"]
    iterations = [json.loads(line)["iteration"] for line in run.resumed_metrics]
    assert iterations == expected["metrics_lines_appended"]


def test_resume_keeps_the_saved_rate(run):
    expected = GOLDEN["resume"]["changed_BASE_LR_on_resume"]
    assert run.changed_group["lr"] == pytest.approx(expected["group_lr_after_resume"])
    assert run.changed_group["initial_lr"] == pytest.approx(expected["initial_lr"])
    assert run.changed_scheduler.base_lrs == pytest.approx(expected["scheduler_base_lrs"])


def test_resume_of_a_finished_run(run):
    expected = GOLDEN["resume"]
    before = (run.output / "model_final.pth").stat().st_mtime_ns
    trainer = TinyTrainer(make_cfg(run.output, "SOLVER.MAX_ITER", "30"))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == expected["finished_run_start_iter"]
    trainer.train()
    assert ("bbox/AP" in trainer.storage.latest()) == expected["finished_run_evaluates_again"]
    assert trainer.storage.latest()["bbox/AP"][1] == trainer.iter == 31  # the loop adds 1 although it is empty
    assert (run.output / "model_final.pth").stat().st_mtime_ns == before


def test_loading_instead_of_resuming(run, tmp_path):
    expected = GOLDEN["resume"]
    weights = str(run.output / "model_final.pth")
    saved = torch.load(weights)["model"]["conv.weight"]

    fresh = TinyTrainer(make_cfg(tmp_path, "MODEL.WEIGHTS", weights))
    fresh.resume_or_load(resume=True)
    assert fresh.start_iter == expected["no_last_checkpoint"]["start_iter"]
    assert torch.equal(fresh.model.conv.weight, saved) == expected["no_last_checkpoint"]["weights_loaded"]
    assert fresh.scheduler.last_epoch == expected["no_last_checkpoint"]["scheduler_last_epoch"]

    again = TinyTrainer(make_cfg(run.output))
    again.resume_or_load(resume=False)
    assert again.start_iter == expected["resume_False_with_checkpoint_present"]["start_iter"]
    assert not torch.equal(again.model.conv.weight, saved)


def test_an_interrupted_run_equals_an_unbroken_one(tmp_path):
    """Weights and rates; the data are constant here, as no trainer of Detectron2 restores their order."""

    def train(folder, stop_at=None):
        torch.manual_seed(0)
        cfg = make_cfg(folder, "SOLVER.MAX_ITER", "12", "SOLVER.STEPS", "(6,)", "SOLVER.CHECKPOINT_PERIOD", "5")
        trainer = DefaultTrainer(cfg)
        trainer.data_loader = [next(iter(trainer.data_loader))] * 12
        trainer.data_loader[0][0]["image"].fill_(100)

        def stop(t):
            if t.iter == stop_at:
                raise KeyError

        trainer.register_hooks([hooks.CallbackHook(before_step=stop)])
        trainer.resume_or_load(resume=True)
        try:
            trainer.train()
        except KeyError:
            return train(folder)
        return trainer

    unbroken, broken = train(tmp_path / "a"), train(tmp_path / "b", stop_at=8)
    assert (unbroken.start_iter, broken.start_iter) == (0, 5)
    # Momentum carries over, or the weights would differ.
    torch.testing.assert_close(unbroken.model.conv.weight, broken.model.conv.weight, rtol=0, atol=0)
    assert unbroken.optimizer.param_groups[0]["lr"] == broken.optimizer.param_groups[0]["lr"]


def scaling_cfg():
    cfg = get_cfg()
    for key, value in GOLDEN["auto_scale_workers"]["input"].items():
        node = cfg.TEST if key == "EVAL_PERIOD" else cfg.SOLVER
        setattr(node, key, tuple(value) if isinstance(value, list) else value)
    return cfg


@pytest.mark.parametrize("case", [key for key in GOLDEN["auto_scale_workers"] if key.startswith("world_")])
def test_auto_scale_workers(case):
    expected = GOLDEN["auto_scale_workers"][case]
    cfg = scaling_cfg()
    original = cfg.clone()
    cfg.freeze()
    scaled = DefaultTrainer.auto_scale_workers(cfg, int(case.removeprefix("world_")))
    found = {key: (scaled.TEST if key == "EVAL_PERIOD" else scaled.SOLVER)[key] for key in expected}
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()} == expected
    assert scaled.is_frozen() and cfg == original
    again = DefaultTrainer.auto_scale_workers(scaled, int(case.removeprefix("world_")))
    assert again == scaled


def test_auto_scale_workers_needs_a_divisible_batch():
    cfg = scaling_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 15
    assert GOLDEN["auto_scale_workers"]["batch_not_divisible"] == "AssertionError"
    with pytest.raises(AssertionError, match=says("REFERENCE_WORLD_SIZE 8")):
        DefaultTrainer.auto_scale_workers(cfg, 4)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    assert DefaultTrainer.auto_scale_workers(cfg, 4) is cfg


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_predictor(tmp_path, image_format):
    expected = GOLDEN["predictor"]
    predictor = DefaultPredictor(make_cfg(tmp_path, "INPUT.FORMAT", image_format))
    image = np.zeros((*SIZE, 3), np.uint8) + np.array(expected["image_hwc_pixel_given"], np.uint8)
    output = predictor(image)
    assert type(output).__name__ == expected["output_type"] and list(output) == expected["output_keys"]
    assert predictor.metadata.name == expected["metadata_name"]
    inputs = predictor.model.inputs
    tensor = inputs[0]["image"]
    found = {
        "type": type(inputs).__name__,
        "n": len(inputs),
        "keys": sorted(inputs[0]),
        "dtype": str(tensor.dtype),
        "shape": list(tensor.shape),
        "height": inputs[0]["height"],
        "width": inputs[0]["width"],
        "first_pixel": tensor[:, 0, 0].tolist(),
        "training": predictor.model.training,
        "grad": predictor.model.grad_enabled,
    }
    assert found == expected[image_format]


def test_predictor_takes_colour_only(tmp_path):
    assert GOLDEN["predictor"]["format_L"] == "AssertionError"
    with pytest.raises(AssertionError, match=says(r"INPUT\.FORMAT")):
        DefaultPredictor(make_cfg(tmp_path, "INPUT.FORMAT", "L"))


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 4)])
def test_predictor_names_pictures_of_other_channels(tmp_path, shape):
    """Detectron2 fails inside numpy here, or where the pixels are normalised."""
    with pytest.raises(ValueError, match=r"takes BGR images \(H, W, 3\), and got the shape \(8, 9"):
        DefaultPredictor(make_cfg(tmp_path))(np.zeros(shape, np.uint8))


def test_predictor_loads_weights_and_works_without_test_sets(tmp_path):
    cfg = make_cfg(tmp_path, "DATASETS.TEST", "()", "MODEL.WEIGHTS", str(tmp_path / "w.pth"))
    model = TinyTestDetector(cfg)
    DetectionCheckpointer(model, str(tmp_path)).save("w")
    predictor = DefaultPredictor(cfg)
    assert torch.equal(predictor.model.conv.weight, model.conv.weight)
    assert not hasattr(predictor, "metadata")


def test_test_without_evaluator(tmp_path, lines):
    expected = GOLDEN["test_without_build_evaluator"]
    cfg = make_cfg(tmp_path)
    assert DefaultTrainer.test(cfg, TinyTestDetector(cfg)) == expected["result"]
    assert any(level == "WARNING" for _, level, _ in lines()) == expected["warned"]


def test_test_results(tmp_path):
    cfg = make_cfg(tmp_path)
    one = TinyTrainer.test(cfg, TinyTestDetector(cfg))
    assert list(one) == GOLDEN["test_one_dataset_result_keys"]
    assert list(one["bbox"]) == GOLDEN["test_one_dataset_metric_keys"]
    cfg.DATASETS.TEST = ("tiny_val", "tiny_train")
    two = TinyTrainer.test(cfg, TinyTestDetector(cfg))
    assert list(two) == GOLDEN["test_two_datasets_result_keys"]
    np.testing.assert_equal(two["tiny_train"], one)


class Constant(DatasetEvaluator):
    def __init__(self, value):
        self.value = value

    def evaluate(self):
        return {"t": {"m": self.value}}


def test_test_with_given_evaluators(tmp_path):
    cfg = make_cfg(tmp_path)
    model = TinyTestDetector(cfg)
    assert DefaultTrainer.test(cfg, model, Constant(1)) == {"t": {"m": 1}}
    assert GOLDEN["test_evaluator_count_mismatch"] == "AssertionError"
    with pytest.raises(AssertionError):
        DefaultTrainer.test(cfg, model, [Constant(1), Constant(2)])
    cfg.DATASETS.TEST = ("tiny_val", "tiny_train")
    results = DefaultTrainer.test(cfg, model, [Constant(1), Constant(2)])
    assert results == {"tiny_val": {"t": {"m": 1}}, "tiny_train": {"t": {"m": 2}}}


def test_amp(tmp_path, monkeypatch):
    expected = GOLDEN["amp"]
    trainer = DefaultTrainer(make_cfg(tmp_path, "SOLVER.AMP.ENABLED", "True"))
    assert type(trainer._trainer).__name__ == expected["trainer_class"]
    assert list(trainer._trainer.state_dict()) == expected["state_dict_keys"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert expected["train_on_cpu"] == "AssertionError"
    with pytest.raises(AssertionError, match=says("CUDA")):
        trainer.train()


@pytest.mark.parametrize("expected_ap, passes", [(5.0, True), (6.0, False)])
def test_expected_results(tmp_path, expected_ap, passes):
    class Fixed(DefaultTrainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return Constant(5.0)

    cfg = make_cfg(tmp_path, "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()")
    cfg.TEST.EXPECTED_RESULTS = [["t", "m", expected_ap, 0.5]]
    trainer = Fixed(cfg)
    if passes:
        assert trainer.train() == {"t": {"m": 5.0}}
    else:
        with pytest.raises(SystemExit):
            trainer.train()


def test_result_type_with_expected_results(tmp_path):
    expected = GOLDEN["train_return_with_EXPECTED_RESULTS"]
    cfg = make_cfg(tmp_path, "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()")
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 50.0, 50.0]]
    results = TinyTrainer(cfg).train()
    assert type(results).__name__ == expected["type"] and list(results) == expected["keys"]


def test_writers_make_their_folder(tmp_path):
    writers = default_writers(str(tmp_path / "new"), 10)
    assert [type(writer).__name__ for writer in writers] == GOLDEN["writers"]
    assert (tmp_path / "new" / "metrics.json").exists()
