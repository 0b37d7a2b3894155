from .box_peaks import max_over_rivals
from .box_refinement import BoxRefinement
from .max_filtering import MaxFiltering, max_over_neighbours
from .norm import build_norm
from .pyramid_shuffle import PyramidShuffle
from .scale import Scale

__all__ = [
    "BoxRefinement",
    "MaxFiltering",
    "PyramidShuffle",
    "Scale",
    "build_norm",
    "max_over_neighbours",
    "max_over_rivals",
]
