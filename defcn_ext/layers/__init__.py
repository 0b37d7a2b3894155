from .max_filtering import MaxFiltering, max_over_neighbours
from .scale import Scale

__all__ = ["MaxFiltering", "Scale", "max_over_neighbours"]
