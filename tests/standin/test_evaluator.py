"""The loop that feeds evaluators, and what is done with their results."""

import math
import re

import pytest
import torch
from torch import nn

from detectron2.config import get_cfg
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.testing import flatten_results_dict
from tests.standin import says


class Counting(DatasetEvaluator):
    """Counts, and notes what was called in which mode."""

    def __init__(self, task="t", result=True):
        self.calls, self.task, self.result = [], task, result

    def reset(self):
        self.calls = ["reset"]

    def process(self, inputs, outputs):
        self.calls.append(["process", len(inputs), outputs])

    def evaluate(self):
        return {self.task: {"m": len(self.calls) - 1}} if self.result else None


class Probe(nn.Module):
    def forward(self, inputs):
        self.seen = [self.training, torch.is_grad_enabled()]
        return [0]


def batches(count):
    return [[{"image_id": index}] for index in range(count)]


def shape_of(line: str) -> str:
    return re.sub(r"\d+\.\d+", "<num>", line)


def test_inference_loop(facts, lines):
    golden = facts("golden_behaviours.json")["inference_on_dataset"]
    model, evaluator, called = Probe(), Counting(), []
    moments = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {moment: lambda moment=moment: called.append(moment) for moment in moments}
    assert inference_on_dataset(model, batches(3), evaluator, callbacks) == golden["result"]
    assert model.seen == golden["model_training_and_grad_during"]
    assert model.training == golden["model_training_after"]
    assert evaluator.calls == golden["evaluator_calls"]
    assert called == golden["callbacks"]
    assert [shape_of(text) for *_, text in lines()] == [shape_of(text) for text in golden["log"]]


def test_inference_loop_reports_progress(facts, lines):
    golden = facts("golden_behaviours.json")["inference_on_dataset"]["log_14_batches"]
    inference_on_dataset(lambda inputs: [0], batches(14), None)
    assert {name for name, *_ in lines()} == {"detectron2.evaluation.evaluator"}
    assert [shape_of(text) for *_, text in lines()] == [shape_of(text) for text in golden]


def test_inference_loop_corner_cases(facts):
    golden = facts("golden_behaviours.json")["inference_on_dataset"]
    model = Probe()
    assert inference_on_dataset(model, batches(1), None) == golden["evaluator_None"]
    assert inference_on_dataset(model, batches(1), [Counting()]) == golden["evaluator_list"]
    assert inference_on_dataset(lambda inputs: [0], batches(1), Counting()) == golden["callable_model"]
    assert inference_on_dataset(model, batches(1), Counting(result=False)) == golden["evaluate_returns_None"]
    assert inference_on_dataset(model, batches(0), Counting()) == golden["empty_loader"]["value"]
    assert golden["two_evaluators_same_key"]["raises"] == "AssertionError"
    with pytest.raises(AssertionError, match=says("'t'")):
        inference_on_dataset(model, batches(1), [Counting(), Counting()])
    assert golden["loader_without_len"]["raises"] == "TypeError"
    with pytest.raises(TypeError):
        inference_on_dataset(model, iter(batches(1)), Counting())


def test_inference_loop_leaves_eval_mode_after_an_exception(facts):
    class Failing(nn.Module):
        def forward(self, inputs):
            raise OSError

    model = Failing()
    with pytest.raises(OSError):
        inference_on_dataset(model, batches(1), None)
    assert model.training == facts("golden_behaviours.json")["inference_on_dataset"]["model_mode_after_exception"]


def test_evaluators_merge_and_skip_none():
    evaluators = DatasetEvaluators([Counting("a"), Counting("b"), Counting("c", result=False)])
    evaluators.reset()
    evaluators.process([{}], [0])
    assert evaluators.evaluate() == {"a": {"m": 1}, "b": {"m": 1}}


def test_print_csv_format(facts, lines):
    golden = facts("golden_coco_eval.json")["print_csv_format_lines"]
    print_csv_format({"bbox": {"AP": 12.3456, "AP50": math.nan, "AP-car": 3.0}, "scalar": 1.5})
    assert [text for *_, text in lines()] == golden["lines"]
    assert {name for name, *_ in lines()} == {"detectron2.evaluation.testing"}


def test_print_csv_format_takes_no_list():
    print_csv_format({})
    with pytest.raises(AssertionError):
        print_csv_format([1.0])


def test_flatten_results_dict(facts):
    nested = {"bbox": {"AP": 1, "x": {"y": 2}}, "z": 3}
    assert flatten_results_dict(nested) == facts("golden_coco_eval.json")["flatten_results_dict"]


VERIFY = {
    "empty": ([], {}),
    "ok": ([["bbox", "AP", 30.0, 0.5]], {"bbox": {"AP": 30.3}}),
    "off": ([["bbox", "AP", 30.0, 0.5]], {"bbox": {"AP": 31.0}}),
    "at_tolerance": ([["bbox", "AP", 30.0, 0.5]], {"bbox": {"AP": 30.5}}),
    "nan": ([["bbox", "AP", 30.0, 0.5]], {"bbox": {"AP": math.nan}}),
    "missing_metric": ([["bbox", "AP", 30.0, 0.5]], {"bbox": {"AP50": 30.0}}),
    "missing_task": ([["bbox", "AP", 30.0, 0.5]], {"segm": {"AP": 30.0}}),
}


def test_every_verification_of_the_facts_is_run(facts):
    assert set(VERIFY) == set(facts("golden_training.json")["verify_results"])


@pytest.mark.parametrize("case", VERIFY)
def test_verify_results(facts, case):
    expected = facts("golden_training.json")["verify_results"][case]
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS, results = VERIFY[case]
    if expected == "SystemExit(1)":
        with pytest.raises(SystemExit) as error:
            verify_results(cfg, results)
        assert error.value.code == 1
    elif expected == "KeyError":
        with pytest.raises(KeyError):
            verify_results(cfg, results)
    else:
        assert verify_results(cfg, results) is expected
