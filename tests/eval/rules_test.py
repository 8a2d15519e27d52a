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


def test_a_cell_has_one_knob_and_its_own_name():
  found = rules.cells({"careful": dict(name="threshold", threshold=(0.5, 0.9), steps=3)})
  assert [(c.rule, c.knob, c.value, c.fields) for c in found] == [
      ("careful", "threshold", x, dict(name="threshold", threshold=x, steps=3))
      for x in (0.5, 0.9)]
  with pytest.raises(ValueError, match="config.eval.rules is empty"):
    rules.cells({}, "config.eval.rules")
