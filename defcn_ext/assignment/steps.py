"""The steps by name, so that yaml can combine them, and the combinations that make no sense."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .expression import Call

Build = TypeVar("Build", bound=Callable[..., Any])
KINDS = ("candidates", "quality", "selection", "weighting")


@dataclass(frozen=True)
class Step:
    """A registered step: the function that builds it from its options, and what others must know of it.

    Traits of a quality: `unit`, it lies in [0, 1]; `same_for_object`, it is equal at all points of an object.
    Of candidates: `by_quality`, they are chosen by quality; `few`, only what a one-to-one selection can use is kept.
    Of a selection: `one_to_one`; `ranks_points`, it compares the points of an object; `unit`, its numbers mean
    qualities in [0, 1].
    """

    kind: str
    name: str
    build: Callable[..., Any]
    traits: frozenset[str]


_STEPS: dict[str, dict[str, Step]] = {kind: {} for kind in KINDS}


def register_step(kind: str, *traits: str) -> Callable[[Build], Build]:
    """Makes a function that returns a step known by its own name in `Combine`.

    Args:
        kind: one of `KINDS`.
        traits: see `Step`.

    Raises:
        ValueError: the name is taken.
    """

    def add(build: Build) -> Build:
        if build.__name__ in _STEPS[kind]:
            raise ValueError(f"{kind} step {build.__name__!r} is registered already")
        _STEPS[kind][build.__name__] = Step(kind, build.__name__, build, frozenset(traits))
        return build

    return add


def steps(kind: str) -> list[str]:
    """The names of the registered steps of a kind."""
    return sorted(_STEPS[kind])


def find_step(kind: str, written: Call | str) -> tuple[Step, Any]:
    """The registered step that a call names, and what it builds.

    An option that is a call, or a word where the option has no default, names candidates (a prior). Their traits are
    those of the step too.

    Raises:
        ValueError: unknown name or option; names what is known. Or the prior keeps too little to choose from.
    """
    call = written if isinstance(written, Call) else Call(str(written), {})
    if call.name not in _STEPS[kind]:
        raise ValueError(f"unknown {kind} step {call.name!r}; known: {', '.join(steps(kind))}")
    step = _STEPS[kind][call.name]
    nested = {key: find_step("candidates", v) for key, v in call.options.items() if _is_step(step, key, v)}
    for key, (prior, _) in nested.items():
        if "few" in prior.traits:
            raise ValueError(
                f"{step.name}: {key}={prior.name} keeps only the points that one-to-one selection can use, of which "
                f"{step.name} would take some away; take best_per_level, center or inside"
            )
        step = replace(step, name=f"{step.name}({key}={prior.name})", traits=step.traits | prior.traits)
    built = {key: prior for key, (_, prior) in nested.items()}
    return step, call_with(call.name, step.build, {**call.options, **built})


def _is_step(step: Step, option: str, value: object) -> bool:
    parameter = inspect.signature(step.build).parameters.get(option)
    required = parameter is not None and parameter.default is inspect.Parameter.empty
    return isinstance(value, Call) or (required and isinstance(value, str))


def with_options_of(further: Callable[..., Any]) -> Callable[[Build], Build]:
    """Shows the options of `further` as those of a function that hands its `**` arguments to it.

    So their names and defaults are written once, where they mean something.
    """

    def extend(build: Build) -> Build:
        own, theirs = (inspect.signature(x).parameters.values() for x in (build, further))
        named = [x for x in own if x.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [x.replace(kind=inspect.Parameter.KEYWORD_ONLY) for x in theirs]
        setattr(build, "__signature__", inspect.Signature([*named, *added]))  # noqa: B010  (mypy knows no such name)
        return build

    return extend


def call_with(name: str, build: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Calls a builder after a check of its options.

    Raises:
        ValueError: an option is unknown, missing, or not of the type of its default.
    """
    known = inspect.signature(build).parameters
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ValueError(f"{name}: unknown option {unknown[0]!r}; known: {', '.join(known) or 'none'}")
    missing = [key for key, x in known.items() if x.default is inspect.Parameter.empty and key not in options]
    if missing:
        raise ValueError(f"{name}: option {missing[0]!r} is missing")
    for key, value in options.items():
        _check_type(f"{name}: option {key}", value, known[key])
    pairs = {key: tuple(x) for key, x in options.items() if isinstance(x, list) and _may_move(known[key])}
    return build(**{**options, **pairs})


def _check_type(what: str, value: object, option: inspect.Parameter) -> None:
    """A value from yaml must be of the type of the option's default; a whole number may stand for a float.

    Two of them may stand for an option that may move.
    """
    default = option.default
    if default is None or default is inspect.Parameter.empty:
        return
    values = value if _may_move(option) and isinstance(value, (list, tuple)) and len(value) == 2 else [value]
    if not all(isinstance(x, (int, float) if isinstance(default, float) else type(default)) for x in values):
        form = " or (start, end)" if _may_move(option) else ""
        raise ValueError(f"{what} must be a {type(default).__name__}{form}, like {default!r}; got {value!r}")


def _may_move(option: inspect.Parameter) -> bool:
    """Whether the option is declared as `Moving`."""
    return str(option.annotation).startswith("Moving[")


def check_combination(candidates: Step, quality: Step, selection: Step) -> None:
    """Refuses steps that do not go together.

    Raises:
        ValueError: with the reason.
    """
    c, q, s = candidates.traits, quality.traits, selection.traits
    if "same_for_object" in q and "ranks_points" in s:
        raise ValueError(
            f"{quality.name} is equal at all points of an object, so {selection.name} would choose among them blindly; "
            "take a quality that looks at the point"
        )
    if "same_for_object" in q and "by_quality" in c:
        raise ValueError(
            f"{quality.name} is equal at all points of an object, so {candidates.name} would choose among them "
            "blindly; take candidates of a region, such as center or inside"
        )
    if "few" in c and "one_to_one" not in s:
        raise ValueError(
            f"{candidates.name} keeps only the points that a matching can use, and {selection.name} wants more of "
            "them; take best_per_level, center or inside"
        )
    if "unit" in s and "unit" not in q:
        raise ValueError(
            f"{selection.name} means a quality in [0, 1], and {quality.name} is not one; for matching, write "
            "full_matching"
        )
