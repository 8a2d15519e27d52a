r"""Claim: half fine-tuning forgets less than full fine-tuning (HFT, arXiv:2404.18466).

A masked diffusion model of 0.4M parameters that knows 160 fictitious people in both directions
(`mdx.data.toys.people`) learns 40 new ones in 200 steps, without the old ones. All weights (full),
a random half of the matrices for all steps (half), or LoRA of rank 8 (lora), each at the best of
five rates by `exact_mean`, the mean of the exact answers about new and about old people, on
another seed: so methods are compared on the frontier of learning and forgetting, for a lower rate
forgets less too.
  python -m mdx.main --config=configs/claims/half_finetuning.py \
    --workdir=runs/claims/half_finetuning

Not run yet.
"""

from ml_collections import config_dict

from mdx.configs import masked_finetuning

STEPS = 200
_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_ARMS = dict(full=dict(), half=dict(optimizer=dict(masks=(
    dict(name="half", round_steps=STEPS),))), lora=dict(adaptations=(dict(name="lora", rank=8),)))


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/half_finetuning.py takes no argument, got {arg!r}.")
  run = masked_finetuning.get_config("diffusion")
  run.update(steps=STEPS, eval_steps=0)
  run.data.source.stage = "alone"
  run.init.base.eval.evaluators = ()
  better = lambda left, right, measure: dict(
      name=f"{left} has a higher {measure} than {right}", left=left, right=right, measure=measure)
  return config_dict.ConfigDict(dict(
      mode="claim", statement="half fine-tuning forgets less than full fine-tuning",
      seeds=(0, 1, 2), tuning_seeds=(100,), run=run, arms=_ARMS,
      grids={arm: dict(key="optimizer.learning_rate", values=_RATES) for arm in _ARMS},
      choose_by="exact_mean",
      measures=("exact_mean", "exact_forward", "exact_backward", "exact_public_forward",
                "exact_public_backward"),
      comparisons=(better("half", "full", "exact_mean"),
                   better("half", "full", "exact_public_forward"),
                   better("half", "lora", "exact_mean"))))
