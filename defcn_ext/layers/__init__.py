from .box_refinement import BoxRefinement
from .max_filtering import MaxFiltering, max_over_neighbours
from .scale import Scale

__all__ = ["BoxRefinement", "MaxFiltering", "Scale", "max_over_neighbours"]
