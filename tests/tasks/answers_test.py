r"""Equality that exact arithmetic and the form decide."""

import time

import pytest

from mdx.tasks import answers
from mdx.tasks import surface


def _compare(gold, answer):
  return answers.compare(surface.normal(gold), surface.normal(answer))


@pytest.mark.parametrize("gold, same", [
    ("1000", ["1,000", "1{,}000", r"1\,000", "1 000", "1000.0", "10^3", r"10^{3}", r"1\times 10^3",
              "$1000$", r"\$1000", "+1000", "1e3", "01000", r"\text{Answer: }1000", "x = 1000"]),
    (r"\frac{1}{2}", ["0.5", "1/2", r"\dfrac12", "½", r"50\%", ".5", r"\frac{2}{4}"]),
    ("-5", ["−5", "–5", "- 5", r"-\frac{10}{2}", "(-5)"]), ("2.5", ["2 1/2", r"2\frac{1}{2}", "5/2"]),
    (r"\frac{1}{3}", [r"0.\overline{3}"]), ("2516_8", ["2516_{8}", r"2516_{\text{eight}}", "2516"]),
    ("45", [r"45^\circ", "45°", r"45\text{ degrees}"]), (r"50\%", ["50", "0.5", "50 percent"]),
    ("15", [r"15 \text{ m}^2", "15 cm", "15 m²", r"15\mbox{ students}"]),
    (r"15\text{ cm}^2", [r"15\text{ square centimeters}", r"15 \text{cm}^{2}", "15"]),
    (r"9\text{ m}/\text{s}^2", ["9", r"9 \text{ m/s}^2"]),
    ("1,2", ["2,1", "1 and 2", r"2 \text{ or } 1", r"\{2,1\}"]), (r"\{1,2\}", [r"\{2, 1\}", "2,1"]),
    ("(1,2)", [r"\left(1,2\right)", "1, 2", "x=1, y=2"]), ("x=3,y=4", ["y=4, x=3", "3, 4"]),
    ("(1,2),(3,4)", ["(3,4),(1,2)"]), (r"\frac{1}{2004!}", [r"\dfrac{1}{2004!}"]),
    ("10^{10^{10}}", ["10^{10^{10}}"]), ("5", ["5 = 5", "x=5", "2+3", r"\{5\}", r"5\tag{6}",
           r"\color{red}5", r"5 \approx 5.01", r"x \equiv 5"])])
def test_other_forms_are_right(gold, same):
  assert [text for text in same if _compare(gold, text) is not True] == []


@pytest.mark.parametrize("gold, other", [
    (r"\frac{1}{2004!}", [r"\frac{1}{2006!}", "0"]), ("0.0000001", ["0.0000002", "0", "10^{-8}"]),
    ("2516_8", ["2516_9", "1358", "2516_{10}", "2517_8"]), ("1358", ["1358_9", "2516_7"]),
    (r"\frac{1}{3}", ["0.333333", "0.3", "3"]), ("5", ["-5", "−5", "6 = 5", "1=2=5", "5 = 6", "5 6",
     "5, 6", r"5\quad 6", "5 or 6", "5; 6", r"5 \text{ and } 6", r"\{5,6\}", "(5,5)", "5.0000001",
     "5 = x = 6", r"5 \text{ (not 6)}", r"5 \text{ oranges, } 6 \text{ apples}", r"5 \approx 6",
     r"5 \equiv 6", r"5 \text{ something } 6", r"\phantom{5}6", r"5 \ldots 6"]),
    ("11", [r"5 \text{ and then } 6", r"5\hspace{1cm}6", r"5\ldots 6"]),
    ("3/2", ["2 1/2", "2/3"]), ("11", ["5 6"]), ("12", ["1 2"]), ("x=4", ["y=4", "x=5"]),
    (r"15\text{ m}", [r"15\text{ cm}", "15 km", r"15\text{ m}^2"]), (r"12^\circ C", [r"12^\circ F"]),
    ("(1,2)", ["(2,1)", "[1,2]", "[1,2)", r"\{1,2\}", "(1,2,2)"]), ("[1,2)", ["[1,2]", "(1,2)"]),
    ("1,2,3", ["1,2,3,3", "1,2", "1,2,4"]), ("x=3,y=4", ["x=4,y=3", "4, 3"]),
    ("(1,2),(3,4)", ["(2,1),(3,4)"]), ("0.5", ["0.5%", "5%"]), ("2^{2004}", ["2^{2004}+1"]),
    ("100!", ["100!+1"]), ("10^{10^{10}}", ["10^{10^{10}}+1", "10^{10^{9}}"]), ("1/0", ["2/0"])])
def test_other_answers_are_wrong(gold, other):
  assert [text for text in other if _compare(gold, text) is not False] == []


@pytest.mark.parametrize("gold, answer", [
    (r"\sqrt{2}", "1.414214"), ("x+1", "1+x"), ("x^2 < 4", "(-2, 2)"), ("5", r"\sqrt{25}")])
def test_the_rest_is_left_to_algebra(gold, answer):
  assert isinstance(_compare(gold, answer), list)


def test_deep_and_long_lists_take_moments():
  start = time.perf_counter()
  for text in (r"\{1," * 120 + "1" + r"\}" * 120, ",".join("1" * 250), "(" * 250 + ")" * 250, "=" * 500,
               "1=" * 249 + "1", r"\frac{" * 70, "{" * 250 + "}" * 250):
    for gold in (text, text + ",2", "5"):
      _compare(gold, text)
  assert time.perf_counter() - start < 5
