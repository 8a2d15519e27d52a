"""Figures in human units with their errors, and sentences that say what a run did."""

import pytest

from mdx import objectives
from mdx.report import compared
from mdx.report import words


@pytest.mark.parametrize("key, value, error, text", [
    ("accuracy", 0.7512, 0.0153, "75.1 ± 1.5 %"), ("test_accuracy", 0.5, None, "50.0 %"),
    ("bits_per_char", 2.4499, 0.0112, "2.450 ± 0.011"), ("reward", 12.0, 3.4, "12.0 ± 3.4"),
    ("seconds", 173.5, None, "2 min 54 s"), ("seconds.base", 59.4, None, "59.4 s"),
    ("wall_seconds", 7322, None, "2 h 2 min"), ("peak_host_bytes", 2**31, None, "2.00 GiB"),
    ("matmul_flops", 4.07e12, None, "4.07 TFLOP"), ("parameters", 339360, None, "339,360"),
    ("num_rows", 512.0, None, "512"), ("learning_rate", 2e-4, None, "0.0002"),
    ("nfe", float("inf"), None, "inf"), ("done", True, None, "true"), ("name", "x", None, "x")])
def test_a_figure_stands_with_unit_and_error_in_one_text(key, value, error, text):
  assert words.quantity(key, value, error) == text


def test_errors_stand_with_their_figures_and_lists_are_left_out():
  results = {"accuracy": 0.5, "stderr": 0.01, "loss": 2.0, "loss_stderr": 0.1, "curve": [1],
             "seconds": {"base": 3.0}, "identity": "abc", "lone_stderr": 1.0}
  assert words.figures(results) == {
      "accuracy": (0.5, 0.01), "loss": (2.0, 0.1), "seconds.base": (3.0, None),
      "lone_stderr": (1.0, None)}


def _rl(*after):
  return {"table": [{"model": m, "remasking": "low_confidence", "nfe": n, "accuracy": a,
                     "stderr": 0.015, "over_denoising": None, "num_examples": 1024}
                    for m, values in (("base", (0.3, 0.9)), ("coupled_grpo", after))
                    for n, a in zip((2, 4), values)]}


def test_the_title_of_rl_follows_the_difference_and_its_error():
  config = {"task": {"name": "sudoku"}}
  title = lambda *after: words.headline(config, _rl(*after))[0].replace("\u00a0", " ")
  assert title(0.74, 0.95) == "coupled GRPO raised correct sudoku problems in 2 steps from 30 % to 74 %"
  assert title(0.2, 0.95).startswith("coupled GRPO lowered correct")
  assert title(0.33, 0.95).startswith("coupled GRPO did not measurably change")  # below 2 x 2.1
  assert title() == "The base model has 30 % of sudoku problems right in 2 steps"


def test_other_runs_have_titles_of_their_own():
  title = lambda results, **config: words.headline(config, results)[0]
  assert title({"bits_per_char": 2.45, "bits_per_char_stderr": 0.011, "steps": 1000,
                "nats_per_token": 1.7}, objective={"name": "diffusion"}) == (
                    "diffusion: 2.450 ± 0.011 bits per character held out after 1,000 steps")
  assert title({"accuracy": 0.4, "stderr": 0.02, "num_examples": 64, "nfe": 8.0,
                "over_denoising": None, "task": {"noun": "GSM8K problems"}}) == (
                    "40.0 ± 2.0 % of 64 GSM8K problems right")
  assert title({"num_rows": 8, "nfe": 16.0, "seconds": 1.0}) == (
      "8 samples in 16 network calls each")
  assert title({"accuracy": 0.9, "test_accuracy": 0.8, "test_accuracy_stderr": 0.01},
               objective={"name": "classification"}, eval={"measures": ("accuracy",)}) == (
                   "classification: 80.0 ± 1.0 % test accuracy")
  assert title({"statement": "A beats B.", "comparisons": [{"verdict": "reproduced"}]}) == "A beats B."
  assert title({}) == title({"x": 1}) == ""


def test_a_run_is_better_if_it_is_ahead_by_two_standard_errors_in_the_right_direction():
  runs = [{"accuracy": a, "stderr": 0.01, "loss": -a, "loss_stderr": 0.01, "parameters": n}
          for a, n in ((0.5, 1), (0.52, 2), (0.56, 2))]
  rows, same = compared.rows(["a", "b", "c"], runs)
  assert [row[0] for row in rows] == ["right answers", "loss", "parameters"] and same == 0
  assert rows[0] == ["right answers", "50.0 ± 1.0 %", "52.0 ± 1.0 %", "56.0 ± 1.0 %",
                     "+6.0 ± 1.4 %", "c"]
  assert rows[1][-1] == "c" and rows[2][-1] == ""
  assert compared.rows(["a", "b"], runs[:2])[0][0][-2:] == ["+2.0 ± 1.4 %", ""]  # 2 < 2 x 1.4
  assert compared.headline(["a", "b", "c"], runs)[0] == "c is better in 2 of 2 figures"
  assert compared.headline(["a", "b"], runs[:2])[0].startswith("2 runs: no figure")


def test_terms_are_found_by_the_names_that_reports_use():
  for key in ("rcr", "low_confidence", "over_denoising", "dead_groups", "grad_norm", "kl", "ratio",
              "nfe", "bits_per_char", "nats_per_token", "goodput", "updates"):
    assert words.term_of(words.name_of(key)), key
  assert words.term_of("right answers") == "" and words.term_of("base") == "base model"
  assert {words.label(name) for name in objectives.POLICIES} >= {"MDPO", "diffu GRPO", "wd1"}
