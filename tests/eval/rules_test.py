"""Fronts of decoding rules, and tables of them."""

import pytest

from mdx.eval import comparison
from mdx.eval import rules

ROWS = [dict(rule="a", nfe=4.0, accuracy=0.8), dict(rule="a", nfe=2.0, accuracy=0.2),
        dict(rule="a", nfe=6.0, accuracy=0.7), dict(rule="b", nfe=1.0, accuracy=0.1)]


@pytest.mark.parametrize("nfe, expected", [
    (1.0, 0.1), (2.0, 0.2), (3.0, 0.5), (4.0, 0.8), (5.0, 0.8), (6.0, 0.8), (99.0, 0.8)])
def test_a_front_is_linear_between_cells_and_never_falls(nfe, expected):
  assert rules.front(ROWS, "a", nfe) == pytest.approx(expected)
  assert comparison.measured({"rules": ROWS}, f"rule:a@{nfe:g}") == pytest.approx(expected)


def test_an_unknown_rule_names_the_choices():
  with pytest.raises(ValueError, match="there is no rule 'c'; choose from a, b"):
    rules.front(ROWS, "c", 1.0)
