from tests.quick import data_root, quick  # noqa: F401  (fixtures)
