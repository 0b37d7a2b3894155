"""The command line of make_nms_free."""

import pytest

from defcn_ext.config import UserError
from defcn_ext.study.nms_free import Measures, Outcome
from defcn_ext.tools import make_nms_free

OUTCOME = Outcome({"val": Measures(1.0, 2.0, 3.0)}, {"val": Measures(4.0, 5.0, 0.1)}, 5, 1.0, 1, 2)


def test_it_hands_its_words_on_and_prints_the_table(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(make_nms_free, "make_nms_free", lambda *words: (calls.append(words), OUTCOME)[1])
    words = ["--weights", "a.pth", str(tmp_path), "--iterations", "5", "--config-file", "b.yaml", "SOLVER.BASE_LR", "1"]
    make_nms_free.main(words)
    assert calls == [("b.yaml", "a.pth", tmp_path, 5, ["SOLVER.BASE_LR", "1"])]
    assert "| with the selector |" in capsys.readouterr().out


def test_errors_are_one_line(monkeypatch, tmp_path):
    def fails(*_):
        raise UserError("a.pth: no such file")

    monkeypatch.setattr(make_nms_free, "make_nms_free", fails)
    with pytest.raises(SystemExit, match="^make_nms_free: error: a.pth: no such file$"):
        make_nms_free.main(["--weights", "a.pth", str(tmp_path)])
    with pytest.raises(SystemExit):
        make_nms_free.main(["--weights", "a.pth", str(tmp_path), "--iterations", "0"])
