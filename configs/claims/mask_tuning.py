r"""Claim: mask tuning with gradient dropout forgets less than without.

Zheng et al. 2023, arXiv:2307.15049 (R-AMT), of tokens: a small masked-diffusion model of the
packaged books learns spoken requests through masks of its frozen attention weights. Nats per token
of held-out requests (new) and books (old), with the whole gradient of the new task, with 30 % and
with all of what goes against the model's own predictions dropped, at one rate and as many steps.
  python -m mdx.main --config=configs/claims/mask_tuning.py --workdir=runs/claims/mask_tuning

Measured on one core of an AMD EPYC (shared with other claims; 25 minutes), seeds 0-3; nats per
token; two-sided paired t over the seeds, p by Holm:
             requests (new)    books (old)
  ungated    4.6390 +- 0.086   4.8687 +- 0.12
  gated_30   4.6389 +- 0.086   4.8267 +- 0.10
  gated      4.6617 +- 0.085   4.7347 +- 0.11
  reproduced: gated keeps more of the books: difference -0.134 +- 0.023, p = 0.004
  not reproduced: gated learns more of the requests: difference +0.023 +- 0.003, p = 0.003
  reproduced: gated_30 keeps more of the books: difference -0.042 +- 0.017, p = 0.034
  inconclusive: gated_30 learns more of the requests: difference -0.0001, p = 0.713
A third of the dropping forgets less at no cost; all of it costs 0.023 nats of what is learned for
0.134 of what is kept. One rate (8e-5) and 400 steps for all; weight fine-tuning was not compared.
"""

from ml_collections import config_dict

from mdx.configs import mask_tuning
from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/mask_tuning.py takes no argument, got {arg!r}.")
  run, objective = mask_tuning.get_config(), dict(name="diffusion", mask_draw="exact_count")
  base = common.get_config(objective=objective, steps=1500)
  run.init.base = base
  run.update(batch_size=32, eval_steps=0, checkpoint_steps=10_000)
  run.network = base.network
  run.eval.update(final_samples=8, estimator="lattice_k")
  run.objective.model = objective
  run.optimizer.schedule = "constant"
  gated = lambda share: dict(objective=dict(drop_share=share))
  arms = dict(ungated=gated(0.0), gated_30=gated(0.3), gated=gated(1.0))
  return config_dict.ConfigDict(dict(
      mode="claim", statement="mask tuning with gradient dropout forgets less",
      seeds=(0, 1, 2, 3), run=run, arms=arms, grids=dict(), choose_by="",
      measures=("nats_per_token", "before_nats_per_token", "seconds"),
      comparisons=tuple(
          dict(name=f"{arm} {what} than ungated", left=arm, right="ungated", measure=measure,
               larger_is_better=False)
          for arm in ("gated", "gated_30") for what, measure in (
              ("keeps more of the books", "before_nats_per_token"),
              ("learns more of the requests", "nats_per_token")))))
