"""What flows through the detector: points, features, dense predictions, objects, and pairs of a point and an object.

Letters used in every docstring: `R` points of one image over all levels, `G` objects, `K` classes, `N` images,
`P` pairs. Boxes are (x1, y1, x2, y2) in pixels of the network input.
"""

from .features import HeadFeatures
from .objects import Objects
from .pairs import DenseTargets, Pairs
from .points import Points, recording
from .predictions import DensePredictions, ScoreView

__all__ = ["DensePredictions", "DenseTargets", "HeadFeatures", "Objects", "Pairs", "Points", "ScoreView", "recording"]
