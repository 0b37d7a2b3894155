import json
import re

import pytest
import torch

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)
from tests.conftest import FACTS

GOLDEN = json.loads((FACTS / "golden_training.json").read_text())


def test_storage():
    facts = GOLDEN["event_storage"]
    with EventStorage(start_iter=5) as storage:
        storage.put_scalar("a", 1)
        storage.step()
        storage.put_scalar("a", torch.tensor(3.0))
        storage.put_scalars(b=2, c=4, smoothing_hint=False)
        with storage.name_scope("x"):
            storage.put_scalar("d", 1)
        assert json.loads(json.dumps(storage.latest())) == facts["latest"]
        assert json.loads(json.dumps(storage.latest_with_smoothing_hint())) == facts["smoothed"]
        assert storage.smoothing_hints() == facts["hints"]
        assert [list(v) for v in storage.history("a").values()] == facts["history_a"]
        assert storage.iter == storage.iteration == facts["iter"]
        with pytest.raises(AssertionError):
            storage.put_scalar("a", 1, smoothing_hint=False)
        with pytest.raises(KeyError):
            storage.history("never")
        assert (facts["conflicting_hint"], facts["history_missing"]) == ("AssertionError", "KeyError")
        assert get_event_storage() is storage and has_event_storage()
    assert not has_event_storage()
    with pytest.raises(AssertionError):
        get_event_storage()


def test_smoothing_counts_iterations_not_samples():
    with EventStorage() as storage:
        for iteration in range(40):
            storage.iter = iteration
            if iteration % 2:
                storage.put_scalar("odd", iteration)
            if iteration < 10:
                storage.put_scalar("early", iteration)
        assert storage.count_samples("odd", 20) == 10
        assert storage.count_samples("early", 4) == 4
        smoothed = storage.latest_with_smoothing_hint(20)
    assert smoothed["odd"] == (30.0, 39)  # the median of 21, 23, ..., 39
    assert smoothed["early"] == (4.5, 9)


def test_json_writer_appends_a_sorted_line_for_each_iteration_with_news(tmp_path):
    file = tmp_path / "m.json"
    file.write_text('{"old": 1}\n')
    with EventStorage() as storage:
        writer = JSONWriter(str(file))
        storage.iter = 3
        storage.put_scalar("b", 2.0)
        storage.put_scalar("a", 1.0)
        storage.put_scalar("eval", 7.0, cur_iter=4)
        writer.write()
        writer.write()  # nothing new
        storage.iter = 5
        storage.put_scalar("a", 5.0)
        writer.write()
        writer.close()
    assert file.read_text().splitlines() == [
        '{"old": 1}',
        '{"a": 1.0, "b": 2.0, "iteration": 3}',
        '{"eval": 7.0, "iteration": 4}',
        '{"a": 3.0, "iteration": 5}',
    ]


def printed(printer, storage, caplog):
    caplog.clear()
    with caplog.at_level("INFO"):
        printer.write()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("iteration", [0, 1])
def test_printed_line(caplog, monkeypatch, iteration):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    iteration = GOLDEN["metric_printer"]["iterations_printed"][iteration]
    with EventStorage() as storage:
        printer = CommonMetricPrinter(max_iter=25)
        for storage.iter in range(iteration + 1):
            storage.put_scalars(total_loss=1.23456, loss_a=1, loss_b=0.23456, time=0.5, data_time=0.25, num_gt=3)
            storage.put_scalar("[metric]mine", 12.345678)
            storage.put_scalar("lr", 7.6240001e-5, smoothing_hint=False)
        (line,) = printed(printer, storage, caplog)
        assert storage.latest()["eta_seconds"] == (0.5 * (25 - iteration - 1), iteration)
    shape = re.sub(r"iter: <num>", f"iter: {iteration}", re.sub(r"\d+\.?\d*(e-\d+)?", "<num>", line))
    shape = shape.replace("eta: <num>:<num>:<num>", "eta: <h:mm:ss>")
    assert shape in GOLDEN["metric_printer"]["lines_with_numbers_replaced"]
    assert "total_loss: 1.235  " in line and "[metric]mine: 12.35  " in line and "lr: 7.624e-05  " in line
    assert f"eta: 0:00:0{(24 - iteration) // 2}" in line


def test_printer_without_an_end_a_time_or_a_rate(caplog):
    with EventStorage() as storage:
        storage.put_scalar("loss", 2.0)
        (line,) = printed(CommonMetricPrinter(), storage, caplog)
        assert "eta" not in line and " lr: N/A" in line
        printer = CommonMetricPrinter(max_iter=10)
        assert "eta" not in printed(printer, storage, caplog)[0]
        storage.step()
        assert "eta: 0:00:00" in printed(printer, storage, caplog)[0], "from the clock: both writes took no time"
        storage.iter = 10
        assert printed(printer, storage, caplog) == []


def test_printer_adds_memory_on_a_gpu(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    with EventStorage() as storage:
        (line,) = printed(CommonMetricPrinter(), storage, caplog)
    assert line.endswith("lr: N/A  max_mem: 3M")


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with EventStorage(7) as storage:
        writer = TensorboardXWriter(str(tmp_path / "tb"))
        assert not (tmp_path / "tb").exists(), "no file before there is something to write"
        storage.put_scalar("group/x", 2.5)
        storage.put_image("picture", torch.zeros(3, 4, 5, dtype=torch.uint8))
        storage.put_histogram("weights", torch.tensor([0.0, 1.0, 1.0]), bins=2)
        writer.write()
        writer.write()
        writer.close()
    read = EventAccumulator(str(tmp_path / "tb"))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("group/x")] == [(7, 2.5)]
    assert [(e.width, e.height) for e in read.Images("picture")] == [(5, 4)]
    (histogram,) = [e.histogram_value for e in read.Histograms("weights")]
    assert (histogram.num, histogram.sum, list(histogram.bucket)) == (3, 2, [1, 2])
    assert not storage._vis_data and not storage._histograms


def test_writers_must_write():
    with pytest.raises(NotImplementedError):
        EventWriter().write()
