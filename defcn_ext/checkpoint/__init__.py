from .convert import Conversion, ConversionError, convert
from .layouts import SOURCES
from .reading import Checkpoint, read_checkpoint
from .writing import report, write

__all__ = ["SOURCES", "Checkpoint", "Conversion", "ConversionError", "convert", "read_checkpoint", "report", "write"]
