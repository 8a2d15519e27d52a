"""Comparisons of runs: learning curves, measures, and the test over seeds."""

import math

import pytest
from scipy import stats

from mdx.eval import comparison

CURVE = [dict(updates=u, rollouts=8 * u, nfe_rollout=24 * u, seconds=0.5 * u, accuracy=a)
         for u, a in ((0, 0.1), (10, 0.3), (20, 0.3), (30, 0.7))]


def test_curves_are_read_between_their_points():
  assert comparison.value_at(CURVE, "updates", 5) == pytest.approx(0.2)
  assert comparison.value_at(CURVE, "seconds", 12.5) == pytest.approx(0.5)
  assert comparison.value_at(CURVE, "rollouts", 999) == 0.7
  assert comparison.updates_to_reach(CURVE, 0.2) == pytest.approx(5)
  assert comparison.updates_to_reach(CURVE, 0.5) == pytest.approx(25)
  assert comparison.updates_to_reach(CURVE, 0.05) == 0
  assert comparison.updates_to_reach(CURVE, 0.8) == float("inf")


def test_updates_until_an_accuracy_end_with_the_run():
  assert comparison.measured({"curve": CURVE}, "reach:0.5") == pytest.approx(25)
  assert comparison.measured({"curve": CURVE}, "reach:0.9") == 30


def test_the_verdict_is_a_paired_t_test_with_the_claimed_sign():
  found = comparison.verdict([1.0, 2.0, 3.0])  # t = 2 sqrt(3), 2 degrees of freedom
  t = 2 * 3 ** 0.5
  assert found["p"] == pytest.approx(1 - t / (2 + t * t) ** 0.5)
  assert (found["difference"], found["spread"]) == (2.0, 1.0)
  assert found["verdict"] == "inconclusive"
  assert comparison.verdict([1.0, 1.1, 0.9])["verdict"] == "reproduced"
  assert comparison.verdict([-1.0, -1.1, -0.9])["verdict"] == "not reproduced"
  assert comparison.verdict([-1.0, -1.1, -0.9], False)["verdict"] == "reproduced"
  assert comparison.verdict([0.0, 0.0, 0.0])["verdict"] == "inconclusive"


@pytest.mark.parametrize("differences, p, word", [
    ([2.0] * 3, 0.25, "inconclusive"), ([2.0] * 5, 0.0625, "inconclusive"),
    ([2.0] * 6, 0.03125, "reproduced"), ([-2.0] * 6, 0.03125, "not reproduced"),
    ([0.1, 0.1 + 1e-9, 0.1 - 1e-9], 0.25, "inconclusive"), ([1e-5] * 3, 0.25, "inconclusive"),
    ([0.0] * 9, 1.0, "inconclusive"), ([1.0, math.nan, 1.0], 1.0, "inconclusive"),
    ([1.0, math.inf, 1.0], 1.0, "inconclusive")])
def test_equal_differences_are_judged_by_their_signs(differences, p, word):
  found = comparison.verdict(differences)
  assert (found["p"], found["verdict"]) == (p, word)


def test_accuracies_are_compared_at_what_both_runs_have_spent():
  short = {"curve": CURVE[:3]}
  compared = comparison.Comparison(name="c", left="a", right="b", equal="seconds")
  assert compared.values({"curve": CURVE}, short) == (0.3, 0.3)
  assert comparison.Comparison(name="c", left="a", right="b", measure="best").values(
      {"curve": CURVE}, short) == (0.7, 0.3)


def test_probes_are_compared_at_equal_cpu_time():
  fast, slow = ({"curve": [dict(updates=u, cpu_seconds=u * cost, accuracy=u / 10)
                           for u in (0, 5, 10)]} for cost in (1.0, 2.0))
  compared = comparison.Comparison(name="c", left="a", right="b", equal="cpu_seconds")
  assert compared.values(fast, slow) == (1.0, pytest.approx(0.5))
  assert comparison.measured(fast, "first") == 0.0 and comparison.measured(fast, "last") == 1.0


def test_curves_have_parts_by_denoising_steps_and_shares_of_the_way():
  curve = [dict(point, nfe=6, accuracy_2_steps=point["accuracy"] / 2) for point in CURVE]
  results = {"curve": curve}
  assert comparison.measured(results, "last@2") == pytest.approx(0.35)
  assert comparison.measured(results, "last@6") == 0.7
  # Half of the way from 0.1 to 1 is 0.55; from 0.05 it is 0.525, which is never reached.
  assert comparison.measured(results, "reach:50%@6") == pytest.approx(26.25)
  assert comparison.measured(results, "reach:50%@6,seconds") == pytest.approx(13.125)
  assert comparison.measured(results, "reach:50%@2") == 30
  with pytest.raises(ValueError, match="no points at 3 denoising steps"):
    comparison.measured(results, "last@3")


def test_an_arm_that_is_worse_by_less_than_the_margin_is_not_inferior():
  differences = [-0.010, -0.012, -0.008, -0.011]
  assert comparison.verdict(differences)["verdict"] == "not reproduced"
  found = comparison.verdict(differences, margin=0.02)
  assert found["verdict"] == "reproduced" and found["difference"] == pytest.approx(-0.01025)
  assert comparison.verdict(differences, margin=0.005)["verdict"] == "not reproduced"
  assert comparison.verdict([-x for x in differences], False, 0.02)["verdict"] == "reproduced"
  # The bound of the 95 % interval is what decides: mean - t * s / sqrt(n).
  low = 0.01025 + 3.182446 * 0.0017078 / 2
  assert comparison.verdict(differences, margin=low + 1e-4)["verdict"] == "reproduced"
  assert comparison.verdict(differences, margin=low - 1e-4)["verdict"] == "inconclusive"
  with pytest.raises(ValueError, match="margin is -1"):
    comparison.Comparison(name="n", left="a", right="b", margin=-1)


def test_verdicts_of_several_comparisons_are_by_corrected_p():
  rows = [comparison.verdict(x) for x in ([1.0, 1.1, 0.9], [1.0, 1.2, 0.7], [-1.0, -1.1, -0.9])]
  assert [row["verdict"] for row in rows] == ["reproduced", "reproduced", "not reproduced"]
  found = comparison.corrected(rows)
  assert [row["p_corrected"] for row in found] == pytest.approx(
      [3 * rows[0]["p"], rows[1]["p"], 3 * rows[2]["p"]], rel=1e-6)
  found = comparison.corrected(rows + [comparison.verdict([1.0, 2.0, 3.0])] * 3)
  assert [row["verdict"] for row in found[:3]] == [
      "reproduced", "inconclusive", "not reproduced"]


def _runs(*curves):
  return [{"curve": [dict(updates=10 * i, accuracy=a) for i, a in enumerate(curve)]}
          for curve in curves]


def test_arms_that_stay_at_their_first_points_have_no_signal():
  last = comparison.Comparison(name="n", left="a", right="b")
  still = _runs((0.30, 0.32), (0.31, 0.29), (0.29, 0.30))
  other = _runs((0.30, 0.31), (0.31, 0.32), (0.29, 0.28))
  moved = _runs((0.30, 0.61), (0.31, 0.59), (0.29, 0.60))
  assert comparison.compare(last, still, other)["verdict"] == "no signal"
  assert comparison.compare(last, moved, moved)["verdict"] == "inconclusive"
  assert comparison.compare(last, moved, other)["verdict"] == "reproduced"
  rows = comparison.corrected([comparison.compare(last, still, other)] * 2)
  assert [row["verdict"] for row in rows] == ["no signal"] * 2
  begun = [{"curve": run["curve"][1:]} for run in still]  # not from untrained weights
  assert comparison.compare(last, begun, begun)["verdict"] == "inconclusive"


def test_intervals_are_those_of_the_paired_t():
  found = comparison.verdict([1.0, 2.0, 4.0, 5.0])
  expected = stats.ttest_1samp([1.0, 2.0, 4.0, 5.0], 0.0).confidence_interval(0.95)
  assert found["interval"] == pytest.approx(tuple(expected))
  found = comparison.verdict([0.1 + 0.2, 0.3, 0.3])  # the same but for rounding
  assert (found["spread"], found["interval"], found["p"]) == (0.0, None, 0.25)


def test_times_that_some_runs_do_not_reach_are_compared_by_log_rank():
  reach = comparison.Comparison(name="n", left="a", right="b", measure="reach:0.5",
                                larger_is_better=False)
  soon = _runs(*[(0.0, 0.1 + 0.1 * i, 0.9, 0.9) for i in range(4)])
  late = _runs(*[(0.0, 0.1, 0.2, 0.6)] * 2, *[(0.0, 0.1, 0.2, 0.3)] * 2)
  row = comparison.compare(reach, soon, late)
  data = [stats.CensoredData([a for a, _ in row["values"]]),
          stats.CensoredData([b for _, b in row["values"][:2]], right=[30.0, 30.0])]
  assert row["test"] == "log-rank" and row["p"] == stats.logrank(*data).pvalue < 0.05
  assert row["verdict"] == "reproduced"
  assert comparison.compare(reach, late, soon)["verdict"] == "not reproduced"
  never = _runs(*[(0.0, 0.1)] * 4)
  assert comparison.compare(reach, never, never)["p"] == 1.0
  assert "test" not in comparison.compare(reach, soon, soon)
