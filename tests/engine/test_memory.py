import sys
from types import SimpleNamespace

from defcn_ext.engine import memory
from detectron2.utils.events import EventStorage


def recorded() -> dict:
    hook = memory.MemoryStats()
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(storage=storage)
        hook.after_step()
        return storage.latest()


def test_memory_is_left_out_where_the_system_does_not_tell_it(tmp_path, monkeypatch):
    assert 10 < recorded()["memory_mb"][0] < 1e6
    monkeypatch.setattr(memory, "STATM", tmp_path / "none")
    assert 10 < recorded()["memory_mb"][0] < 1e6
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert "memory_mb" not in recorded()
