r"""Claim: mask tuning with gradient dropout forgets less than without.

Zheng et al. 2023, arXiv:2307.15049 (R-AMT), of tokens: a small masked-diffusion model of the
packaged books learns spoken requests through masks of its frozen attention weights. Nats per token
of held-out requests (new) and books (old), with the whole gradient of the new task, with 30 % and
with all of what goes against the model's own predictions dropped, at one rate and as many steps.
  python -m mdx.main --config=configs/claims/mask_tuning.py --workdir=runs/claims/mask_tuning
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
