"""Names that are there to be imported, for code that goes on without them; using one says what is missing."""

from typing import Any


class _LeftOut(type):
    """Raises at every use of the class but as a class: calling it and asking for what is in it."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{cls.__name__}: {cls.__doc__}")

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise NotImplementedError(f"{cls.__name__}.{name}: {cls.__doc__}")


def left_out(name: str, module: str, reason: str) -> type:
    """A class that can be imported and inherited from, and nothing else.

    Args:
        name: of the class or function that Detectron2 has here.
        module: `__name__` of the module that offers it.
        reason: what this package does not do, as a sentence without its end.
    """
    doc = f"{reason}. An installed Detectron2 has it: DEFCN_DETECTRON2=installed"
    return _LeftOut(name, (), {"__doc__": doc, "__module__": module})
