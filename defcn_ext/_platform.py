"""Makes `import detectron2` work: the installed package if there is one, else the stand-in of this project."""

import importlib.util
import os
import sys
from pathlib import Path

CHOICE_VARIABLE = "DEFCN_DETECTRON2"
STANDIN_ROOT = Path(__file__).resolve().parent / "standin"


def ensure_detectron2() -> str:
    """Puts the stand-in on the import path where it is needed.

    An installed Detectron2 always wins, unless `DEFCN_DETECTRON2=standin`. Spawned worker processes inherit
    `sys.path`, so they see the same choice before they unpickle anything.

    Returns:
        "installed" or "standin".

    Raises:
        ValueError: `DEFCN_DETECTRON2` is neither of the two.
        ImportError: `DEFCN_DETECTRON2=installed` and Detectron2 is not installed.
    """
    choice = os.environ.get(CHOICE_VARIABLE, "")
    if choice not in ("", "installed", "standin"):
        raise ValueError(f"{CHOICE_VARIABLE}={choice!r}: use 'installed' or 'standin', or leave it unset")
    found = _which()
    if choice == "installed" and found != "installed":
        raise ImportError(
            f"{CHOICE_VARIABLE}=installed, but Detectron2 is not installed. Install it "
            "(from the clone: pip install --no-build-isolation -e '.[detectron2]'), "
            f"or unset {CHOICE_VARIABLE} to use the stand-in."
        )
    if choice == "standin" and found == "installed":
        if "detectron2" in sys.modules:
            raise ImportError(
                f"{CHOICE_VARIABLE}=standin, but the installed detectron2 is already imported: "
                "import defcn_ext before detectron2"
            )
        sys.path.insert(0, str(STANDIN_ROOT))
        found = "standin"
    elif found is None:
        sys.path.append(str(STANDIN_ROOT))
        found = "standin"
    return found


def describe(found: str) -> str:
    """What `ensure_detectron2` chose, and why, for the log."""
    forced = f", forced by {CHOICE_VARIABLE}" if os.environ.get(CHOICE_VARIABLE) else ""
    if found == "installed":
        return f"the installed package{forced}"
    return f"the stand-in of defcn_ext at {STANDIN_ROOT}{forced or ', as it is not installed'}"


def _which() -> str | None:
    """Which Detectron2 an import would find now: "installed", "standin" or None."""
    module = sys.modules.get("detectron2")
    spec = module.__spec__ if module is not None else importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    return "standin" if Path(spec.origin).resolve().is_relative_to(STANDIN_ROOT) else "installed"
