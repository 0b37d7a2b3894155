"""A rule of any steps that go together."""

from __future__ import annotations

from .expression import Call
from .rules import Rule, register_rule
from .steps import check_combination, find_step


@register_rule("Combine")
def combine(
    candidates: Call | str, quality: Call | str, selection: Call | str, weighting: Call | str | None = None
) -> Rule:
    """Any steps that go together, as in `Combine(candidates=inside, quality=poto(alpha=0.6), selection=matching)`.

    Args:
        candidates, quality, selection, weighting: registered steps, `steps.steps(kind)` lists them.

    Raises:
        ValueError: a step is unknown, or the steps make no sense together.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> rule = build_rule("Combine(candidates=inside, quality=poto(alpha=0.6), selection=top_k(k=2))")
        >>> pairs = rule(*examples.two_objects())
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([0, 1, 64, 65], [0, 0, 1, 1])
    """
    (c, find), (q, judge), (s, select) = (
        find_step(kind, written)
        for kind, written in (("candidates", candidates), ("quality", quality), ("selection", selection))
    )
    check_combination(c, q, s)
    if "shares_points" in s.traits and weighting is None:
        raise ValueError(f"{s.name} lets a point serve several objects, which hard losses cannot; add a weighting")
    return Rule(find, judge, select, None if weighting is None else find_step("weighting", weighting)[1])
