from . import combine, one_to_many, one_to_one, quality_labels, repeated, weighted_rules  # noqa: F401  (they register)
from .rules import Rule, build_rule, register_rule, rules
from .steps import register_step, steps

__all__ = ["Rule", "build_rule", "register_rule", "register_step", "rules", "steps"]
