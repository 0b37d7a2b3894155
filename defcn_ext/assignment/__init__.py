from .rules import Rule, build_rule, register_rule, rules

__all__ = ["Rule", "build_rule", "register_rule", "rules"]
