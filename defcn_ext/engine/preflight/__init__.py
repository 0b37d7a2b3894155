"""What can be known to go wrong is told before a run starts, in one line, with the fix."""

from .config_file import load_config
from .run import before_training, check_run

__all__ = ["before_training", "check_run", "load_config"]
