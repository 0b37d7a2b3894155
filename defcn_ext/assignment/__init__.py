from . import weighted_rules  # noqa: F401  (registers its rules)
from .rules import Rule, build_rule, register_rule, rules
from .steps import register_step, steps

__all__ = ["Rule", "build_rule", "register_rule", "register_step", "rules", "steps"]
