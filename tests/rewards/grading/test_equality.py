"""Equalities of functions: shown by algebra, or by points that each scale, sign, root and branch has."""

from string import ascii_letters

import pytest

from rewards.grading import equality
from rewards.grading.formula import GREEK

SAME = [
    ("|x-5|", r"\sqrt{(x-5)^2}"),
    (r"\ln(xy)", r"\ln x+\ln y"),
    (r"\tan(x/2)", r"\frac{\sin x}{1+\cos x}"),
    (r"\sin 2x", r"2\sin x\cos x"),
    (r"\sqrt{x^2}", "|x|"),
    ("n!", "n(n-1)!"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\ln(x^2)", r"2\ln|x|"),
    ("(-1)^n", r"\cos(n\pi)"),
    ("e^x", r"\exp(x)"),
    (r"\sqrt{x}", "x^{1/2}"),
    (r"\sin^{-1} x", r"\arcsin x"),
    (r"A(1+\frac{r}{100})^n", "A(1+0.01r)^n"),
    (r"P(1+\frac{r}{n})^{nt}", "P(1+r/n)^{nt}"),
    (r"\sqrt{xy}", r"\sqrt{x}\sqrt{y}"),
    (r"\frac{e^x-e^{-x}}{2}", r"\sinh x"),
    ("2^x", "2**x"),
    ("x^x", "x^{x+0}"),
    ("3xi", "3ix"),
    (r"\log_2(8)", "3"),
    (r"\log_2(x+1)", r"\frac{\ln(x+1)}{\ln 2}"),
    ("x^{1/3}", r"\sqrt[3]{x}"),
    ("|x|^3", "x^2|x|"),
    (r"\sec^2 x", r"1+\tan^2 x"),
    (r"\arccos x", r"\frac{\pi}{2}-\arcsin x"),
    (r"\ln(1+e^x)", r"x+\ln(1+e^{-x})"),
    ("n!", r"\Gamma(n+1)"),
    ("(x+1)!", "(x+1)x!"),
    ("e^{2x}", "(e^x)^2"),
]

OTHERS = [
    ("x+2", "|x+2|"),
    ("x+2", r"\sqrt{(x+2)^2}"),
    ("5-x", "|x-5|"),
    ("5-x", r"\sqrt{x^2-10x+25}"),
    (r"\cos x", r"\sqrt{1-\sin^2x}"),
    (r"\ln|x+2|", r"\ln(x+2)"),
    ("x", r"\arcsin(\sin x)"),
    ("x", "x+10^{-25}"),
    ("1", r"\frac{|x+2|}{x+2}"),
    ("|x-5|", "5-x"),
    (r"\ln(x^2)", r"2\ln x"),
    ("x", r"x+10^{-60}\sin x"),
    ("x+1", "x+1.0000001"),
    ("x", r"\frac{|x+10^6|-|x-10^6|}{2}"),
    (r"\sin x", r"\sin x+\frac{|x-3000|-x+3000}{10^{20}}"),
    (r"\arctan x", r"\arctan(x)+\lfloor x/1000 \rfloor"),
    ("f(x)", "f(y)"),
    ("x|x|", "x^2"),
    (r"\sqrt{1+x^2+2x}", "x+1"),
    (r"\sin x", r"x-\frac{x^3}{6}"),
    ("x^2", r"x^2+10^{-12}\sin(x)"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_one_function_in_two_spellings_is_equal(gold: str, answer: str) -> None:
    assert equality._equal(gold, answer, "")


@pytest.mark.parametrize(("gold", "answer"), OTHERS)
def test_a_function_that_agrees_on_a_part_alone_is_not(gold: str, answer: str) -> None:
    assert not equality._equal(gold, answer, "")


def test_what_is_decided_nowhere_is_not_equal() -> None:
    assert not equality._equal("g(x)", "g(y)", "")


@pytest.mark.parametrize(("gold", "answer"), [(r"\frac{", "x"), ("x", r"\frac{")])
def test_what_cannot_be_read_says_which_side_it_is(gold: str, answer: str) -> None:
    with pytest.raises(equality.Unreadable, match="answer_unusable" if gold != "x" else "unparseable"):
        equality._equal(gold, answer, "")


def test_a_reference_is_readable_or_not() -> None:
    assert equality.readable("(x+1, 2)")
    assert equality.equal("(x+1, 2)", "(1+x, 2)")


LETTERS = sorted({*ascii_letters, *(f"\\{name}" for name in GREEK)} - {"e", "i"})


@pytest.mark.parametrize(
    "form", ["{}", "3+2 {}", "{}_1", "{}_{{12}}", "{}_n^2", r"\frac{{{}_0}}{{2}}", "({}-1)^2", "{} t"]
)
def test_each_letter_is_a_variable_of_its_own(form: str) -> None:
    r"""To the parser, `I` is the imaginary unit, `\gamma` a constant of Euler's, and `E_1` unreadable."""
    found = [equality._parse(form.format(letter)) for letter in LETTERS]
    assert [
        letter for letter, each in zip(LETTERS, found, strict=True) if not getattr(each, "free_symbols", None)
    ] == []
    assert len(set(found)) == len(LETTERS)


@pytest.mark.parametrize(
    ("gold", "answer"), [("I^2", "-1"), ("I_1", "I_2"), (r"2\gamma+1", "3"), (r"\gamma", "0.5772156649"), ("2 E", "2e")]
)
def test_no_letter_is_a_constant(gold: str, answer: str) -> None:
    assert not equality.equal(gold, answer)
