r"""Surface forms: one way of writing, and differences of meaning that stay."""

import fractions

import pytest

from mdx.tasks import parsing
from mdx.tasks import surface


@pytest.mark.parametrize("text, normal", [
    ("3×4", "3*4"), (r"3 \times 4", "3*4"), (r"3\cdot 4", "3*4"), ("3·4", "3*4"), ("3⋅4", "3*4"),
    ("8÷4", "8/4"), (r"8\div4", "8/4"), ("9–4−2", "9-4-2"), ("$x$", "x"), (r"\(x\)", "x"),
    (r"\[x\]", "x"), ("$$x$$", "x"), (r"\left(1\right)", "(1)"), (r"\bigl[1\bigr]", "[1]"),
    (r"\dfrac12", r"\frac{1}{2}"), (r"\tfrac{1}2", r"\frac{1}{2}"), (r"{8 \over 4}", r"\frac{8 }{ 4}"),
    (r"({8\over4})", r"(\frac{8}{4})"), ("½", r"\frac{1}{2}"), (r"\boxed{5}", "5"),
    (r"\boxed{\boxed{5}}", "5"), (r"\textbf{a}", r"\text{a}"), ("x²", "x^{2}"), ("2₈", "2_{8}"),
    ("1,000", "1000"), ("1{,}000", "1000"), (r"1,\!000", "1000"), (r"1\,000", "1000"),
    ("1 000 000", "1000000"), ("1'000", "1000"), ("(1,234)", "(1,234)"), (r"\{1,234\}", r"\{1,234\}"),
    ("1,2", "1,2"), ("1 2", "1 2"), (r"5\quad 6", "5 6"), ("2 1/2", r"(2+\frac{1}{2})"),
    (r"2\frac12", r"(2+\frac{1}{2})"), ("2½", r"(2+\frac{1}{2})"), ("2 5/2", "2 5/2"),
    (r"x2\frac12", r"x2\frac{1}{2}"), (r"0.1\overline{6}", r"\frac{15}{90}"),
    (r"45^{\circ}", r"45^\circ"), ("45°", r"45^\circ"), (r"2_{\text{eight}}", "2_{8}"),
    ("2_8", "2_{8}"), (r"\$5", "5"), ("-$5", "-5"), ("€5", "5"), ("Answer: 5", "5"),
    ("**Answer:** 5", "5"), ("The answer is 5.", "5"), ("**5**", "5"), ("= 24", "24"), (".5", ".5"),
    ("2**3", "2**3"), ("x<=3", r"x\le 3"), (r"50\%", "50%"), ("1.5 x 10^3", "1.5*10^3"), ("", "")])
def test_normal_forms(text, normal):
  assert " ".join(surface.normal(text).split()) == normal


@pytest.mark.parametrize("text, value", [
    (r"\frac{\frac{1}{2}}{3}", "1/6"), ("2^{10}", "1024"), ("2^{-1}", "1/2"), ("-2^2", "-4"),
    ("2^3^2", "512"), ("3!", "6"), ("(3+5)(7)", "56"), ("2(3)", "6"), ("0.1+0.2", "3/10"),
    ("1.5*10^{3}", "1500"), ("1e-7", "1/10000000"), ("(1)^{999999999999}", "1"), ("0^5", "0")])
def test_values_of_formulas(text, value):
  assert parsing.value(surface.ascii_formula(text)) == fractions.Fraction(value)


@pytest.mark.parametrize("text", ["9^9^9^9", "10^{100000000}", "(10^6)!", "5!!!!!!", "1e999999", "1/0",
                                  "20001!", "0^0", "(2^{200000})*(2^{200000})", "1/(1/0)"])
def test_what_is_too_large_or_undefined_equals_nothing(text):
  value = parsing.value(surface.ascii_formula(text))
  assert value is None or value != value


@pytest.mark.parametrize("text", ["", "x", "2^{0.5}", "(1/2)!", "(-1)!", "3!!", "1 2", "(", "2^", "^2",
                                  "1.2.3", "a(3)", "1" * 513, "(" * 40 + "1" + ")" * 40])
def test_what_is_no_arithmetic_has_no_value(text):
  assert parsing.value(surface.ascii_formula(text)) is None


def test_unbalanced_braces_do_not_parse():
  for text in ("}{", r"\frac{1}{", r"\frac{1}2}", "{1", r"\frac{1}"):
    assert parsing.value(surface.ascii_formula(text)) is None, text
