r"""Reading answers: last \boxed{}, <answer>, numbers, expressions."""

import fractions
import random

import pytest

from mdx.tasks import parsing


@pytest.mark.parametrize("text, content", [
    (r"\boxed{3}", "3"), (r"\boxed{1} \boxed{2}", "2"), (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{1} \boxed{2", "1"), (r"\boxed{\{1, 2\}}", r"\{1, 2\}"), (r"\boxed{\}}", r"\}"),
    (r"\boxed {5}", "5"), (r"\fbox{5}", "5"), (r"\boxed{}", ""), (r"\boxed{a}}}}", "a"),
    (r"{ \boxed{7}", "7"), (r"\boxed{ {1 \boxed{5}", "5"), (r"\boxed{1 \boxed{2} 3}", "2"),
    (r"\\boxed{4}", None), (r"boxed{4}", None), ("", None), (r"\boxed", None), (r"\boxed{", None),
    ("\\boxed{a\nb}", "a\nb")])
def test_last_boxed_vectors(text, content):
  assert parsing.last_boxed(text) == content


@pytest.mark.parametrize("text, content", [
    ("<answer>5</answer>", "5"), ("<answer>1</answer> <answer>2</answer>", "2"),
    ("<answer>1</answer> <answer>2", "1"), ("<answer>a\nb</answer>", "a\nb"),
    ("</answer><answer>", None), ("<answer>", None), ("5</answer>", None), ("", None)])
def test_last_tag_vectors(text, content):
  assert parsing.last_tag(text) == content


def test_only_the_end_of_a_text_is_looked_at():
  for answer in (r"\boxed{1}", "<answer>1</answer>"):
    rest = "x" * (parsing.MAX_CHARS - len(answer))
    assert parsing.final_answer(answer + rest) == "1"
    assert parsing.final_answer(answer + rest + "x") is None


def test_a_box_comes_before_a_tag():
  assert parsing.final_answer(r"\boxed{1} <answer>2</answer>") == "1"
  assert parsing.final_answer(r"\boxed{1 <answer>2</answer>") == "2"
  assert parsing.final_answer("2") is None


@pytest.mark.parametrize("text, value", [
    ("1000", 1000), ("1,000", 1000), ("1000.00", 1000), ("$1,000", 1000), (r"\$1,000.00", 1000),
    ("1{,}000", 1000), (r"1\,000", 1000), (r"1,\!000", 1000), ("5%", 5), (r"50\%", 50),
    ("42 apples", 42), (r"18\text{ dollars}", 18), ("x = 5", 5), ("3 + 4 = 7", 7), ("-5", -5),
    ("$-5", -5), ("-$5", -5), (".5", 0.5), ("0.125", 0.125), ("5.", 5), ("007", 7),
    ("12,345,678", 12345678), ("1234,567", None), ("10,20", None), ("10 or 20", None),
    ("1/2", 0.5), ("", None), ("five", None), ("3-5", None), ("9" * 41, None), ("٣", None),
    ("5 =", None), ("−5", -5), ("–5", -5), ("- 5", -5), ("(-5)", -5), (r"-\$5", -5), ("minus 5", -5),
    ("€20", 20), (r"15 \text{ m}^2", 15), ("15 m²", 15), ("15 m2", 15), ("5 km/h", 5), ("45°", 45),
    ("1 000", 1000), (r"\frac{1}{2}", 0.5), (r"-\frac12", -0.5), ("2 1/2", 2.5), ("2½", 2.5),
    (r"-2\frac{1}{2}", -2.5), (r"1.5\times 10^3", 1500), ("10^3", 1000), ("1.5e3", 1500),
    ("**5**", 5), ("Answer: 5", 5), (r"\text{5}", 5), ("6 = 5", None), ("5 = 5", 5), ("5, 6", None),
    ("5 6", None), (r"\sqrt{36}", None), (r"5\pi", None), ("5!", None), (r"\frac{\pi}{2}", None),
    (r"5\text{i}", None), ("5i", None), (r"x \ne 5", None), ("x < 5", None), ("not 5", None),
    ("1/2/3", None), ("1/0", None), (r"\log 5", None)])
def test_number_vectors(text, value):
  assert parsing.number(text) == (None if value is None else fractions.Fraction(value))


@pytest.mark.parametrize("text, value", [
    ("first 3 then 4.", 4), ("it costs $1,250.50!", 1250.5), ("10 - 3", 3), ("no", None),
    ("3 = 4, 10,20", 20), ("1,2345", 2345), ("it is -7", -7), ("The range is 10-5", 5),
    ("it is −7.", -7), ("he lost -$5", -5), ("- 5 apples", 5), ("COVID-19", 19), ("pages 5–10", 10),
    ("it is 1/2", 0.5), ("15 m^2", 15), ("15 m²", 15), ("about 12 000 people", 12000),
    ("1.5 × 10^3", 1500), ("2½ hours", 2.5), ("minus 5", -5), ("it is 10 minus 5", 5),
    (r"so \sqrt{36}", None)])
def test_last_number_vectors(text, value):
  assert parsing.last_number(text) == (None if value is None else fractions.Fraction(value))


def _random_expression(rng, depth):
  if depth == 0 or rng.random() < 0.2:
    return str(rng.randint(0, 12))
  left, right = (_random_expression(rng, depth - 1) for _ in range(2))
  text = f"{left}{rng.choice(['+', '-', '*', '/', ' + ', ' * '])}{right}"
  return rng.choice([f"({text})", text, f"-({text})"])


def test_expression_agrees_with_python_on_random_expressions():
  rng = random.Random(0)
  by_zero = 0
  for _ in range(1000):
    text = _random_expression(rng, 3)
    numbers = [int(n) for n in "".join(c if c.isdigit() else " " for c in text).split()]
    exact = "".join(f"F({t})" if t.isdigit() else t for t in parsing._TOKEN.sub(
        r" \1\2 ", text).split())
    try:
      expected = eval(exact, {"F": fractions.Fraction})  # pylint: disable=eval-used
    except ZeroDivisionError:
      expected, by_zero = None, by_zero + 1
    assert parsing.expression(text) == (expected, numbers), text
  assert 20 < by_zero < 500


@pytest.mark.parametrize("text", [
    "", "+", "3+", "(3", "3)", "3 4", "3**4", "3//4", "3(4)", "()", "3^4", "1e5", "3.5", "0x10",
    "1_000", "abs(3)", "x", "３", "3,4", "9" * 10, "(" * 33 + "1" + ")" * 33, "-" * 40 + "1",
    "1+" * 130 + "1"])
def test_what_is_no_expression_is_none(text):
  assert parsing.expression(text) is None


def test_nesting_within_the_limit_is_read():
  assert parsing.expression("(" * 32 + "1" + ")" * 32) == (1, [1])
