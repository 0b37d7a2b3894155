"""Rules as one line of yaml."""

import pytest

from defcn_ext.assignment.expression import parse_call


@pytest.mark.parametrize(
    "text, name, options",
    [
        ("POTO", "POTO", {}),
        ("  POTO()\n", "POTO", {}),
        ("POTO(alpha=0.8, prior=center)", "POTO", {"alpha": 0.8, "prior": "center"}),
        ("POTO(prior=global, select=lambda,a = class)", "POTO", {"prior": "global", "select": "lambda", "a": "class"}),
        ("R(a='x y', b=\"global\")", "R", {"a": "x y", "b": "global"}),
        ("R(a=True, b=False, c=None)", "R", {"a": True, "b": False, "c": None}),
        ("R(a=-1, b=1e-3, c=[1, 'two', (3,)])", "R", {"a": -1, "b": 1e-3, "c": [1, "two", (3,)]}),
        ("R(a={'k': -2.5})", "R", {"a": {"k": -2.5}}),
        ("R(a=Truely, b=none)", "R", {"a": "Truely", "b": "none"}),
        ("R(a=1,)", "R", {"a": 1}),
        ("R(\n    a=word,\n    b=2,\n)", "R", {"a": "word", "b": 2}),
    ],
)
def test_names_and_values(text, name, options):
    found_name, found = parse_call(text)
    assert found_name == name and found == options
    assert [type(value) for value in found.values()] == [type(value) for value in options.values()]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "POTO(",
        "POTO(alpha=0.8, alpha=0.9)",
        "POTO)",
        "POTO(0.8)",
        "POTO(alpha=0.8, 1.5)",
        "POTO(alpha)",
        "POTO(alpha=)",
        "POTO(alpha=0.8 prior=center)",
        "POTO(**{'alpha': 0.8})",
        "POTO(alpha=1 + x)",
        "POTO(prior=a.b)",
        "POTO(names=[center])",
        "POTO(prior=center); FCOS()",
        "rules.POTO()",
        "POTO()()",
        "[POTO]",
        "3",
        "'POTO'",
        "class",
        "POTO(text='\0')",
    ],
)
def test_anything_else_is_refused_with_the_text_and_the_form(text):
    with pytest.raises(ValueError, match=r"NAME\(option=value, \.\.\.\)") as error:
        parse_call(text)
    assert repr(text) in str(error.value)


def test_nothing_is_executed(tmp_path):
    target = tmp_path / "file"
    with pytest.raises(ValueError, match="cannot read the rule"):
        parse_call(f"R(a=open({str(target)!r}, 'w'))")
    assert not target.exists()
