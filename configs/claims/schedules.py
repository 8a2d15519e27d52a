r"""Claim: the schedule of masked diffusion changes no bound, and hardly what is learned.

The bound of a model that knows its mask rate or needs none is the same for all schedules (Shi et
al. 2024, arXiv:2406.04329; Sahoo et al. 2024, arXiv:2406.07524): they differ by variance alone.
MD4's linear, cosine and polynomial (power 2 and 1/2) schedules at equal steps; each model is
evaluated with its own.
  python -m mdx.main --config=configs/claims/schedules.py --workdir=runs/claims/schedules

Measured on 2 cores of an AMD EPYC (shared with other work; 10 minutes), seeds 0-2, 0.14M
parameters, 500 steps; bits per character, and gradient variance of 64 draws at the arm's own
weights; two-sided paired t over the seeds (of variances on the logarithms, ratio *: its factor):
  inconclusive: cosine has a better bound than linear:
    3.389 against 3.354, difference +0.035 +- 0.024, p = 0.125
  inconclusive: cosine has a smaller gradient variance than linear:
    0.715 against 0.526, ratio 1.349 *: 1.17, p = 0.077
  inconclusive: square has a better bound than linear:
    3.239 against 3.354, difference -0.115 +- 0.069, p = 0.102
  inconclusive: square has a smaller gradient variance than linear:
    0.559 against 0.526, ratio 1.067 *: 1.16, p = 0.532
  inconclusive: root has a better bound than linear:
    3.573 against 3.354, difference +0.218 +- 0.287, p = 0.318
  inconclusive: root has a smaller gradient variance than linear:
    31.101 against 0.526, ratio 11.651 *: 9.33, p = 0.197
Nothing is significant. The square schedule, which masks a third of the tokens, was ahead of the
linear one with every seed (3.327, 3.139, 3.253 against 3.431, 3.327, 3.304); the root schedule's
gradient variance was 0.7, 3.4 and 89: its rare light masks weigh much.
"""

from ml_collections import config_dict

from mdx.configs.claims import common

_SCHEDULES = dict(linear=dict(name="linear", eps=1e-3), cosine=dict(name="cosine", eps=1e-3),
                  square=dict(name="polynomial", power=2.0, eps=1e-3),
                  root=dict(name="polynomial", power=0.5, eps=1e-3))


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/schedules.py takes no argument, got {arg!r}.")
  run = common.get_config(objective=dict(
      name="diffusion", schedule=dict(_SCHEDULES["linear"]), time="lattice",
      mask_draw="bernoulli"))
  run.eval.gradient_draws = 64
  comparisons = []
  for other in ("cosine", "square", "root"):
    pair = dict(left=other, right="linear", larger_is_better=False)
    comparisons += [
        dict(pair, name=f"{other} has a better bound than linear", measure="bits_per_char"),
        dict(pair, name=f"{other} has a smaller gradient variance than linear",
             measure="gradient_variance", ratio=True)]
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="another schedule than the linear one gives a better bound at equal steps",
      seeds=(0, 1, 2),
      run=run,
      arms={name: dict(objective=dict(schedule=schedule))
            for name, schedule in _SCHEDULES.items()},
      grids=dict(),
      choose_by="",
      measures=("bits_per_char", "bits_per_char_stderr", "gradient_variance", "gradient_square"),
      comparisons=tuple(comparisons),
  ))
