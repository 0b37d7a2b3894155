"""What `import defcn_ext` registers, put off until somebody could look: `defcn_ext.deploy` runs without torch."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

WITHOUT_TORCH = ("deploy", "tools", "_late", "_platform", "_text")  # parts of the package that need none themselves


def register() -> None:
    """Fills Detectron2's registries, and its catalogs with the data sets of this project's configs; once."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, RegisteringFinder)]
    with warnings.catch_warnings():
        # fvcore scripts its losses on import, which newer versions of torch call deprecated
        warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated", FutureWarning)
        for name in ("backbones", "data", "meta_arch"):
            importlib.import_module(f"defcn_ext.{name}")
        importlib.import_module("defcn_ext.checkpoint.guard").install()


class RegisteringFinder(MetaPathFinder):
    """Registers before the first import of Detectron2, or of a part of this package that needs torch.

    The registration imports whatever was asked for itself, so that its module is there already: it is handed over as it
    is, not loaded a second time.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, rest = name.partition(".")
        if name != "detectron2" and (top != "defcn_ext" or rest.partition(".")[0] in WITHOUT_TORCH):
            return None
        register()
        module = sys.modules.get(name)
        if module is None or module.__spec__ is None:
            return None  # not a part of what was registered: found as everything is
        module.__spec__.loader = _Loaded(module.__spec__)
        return module.__spec__


class _Loaded(Loader):
    """The loader of a module that is there: gives it, once, and then makes room for the one that loaded it."""

    def __init__(self, spec: ModuleSpec):
        self._spec, self._loader = spec, spec.loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        self._spec.loader = self._loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
