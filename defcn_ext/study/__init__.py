"""Many trainings, compared on the same data and budget."""
