r"""Claim: 2:4 masks that are learned beat masks of one shot, and a prior helps.

Fang et al. 2024, arXiv:2409.17481 (MaskLLM): of every 4 weights 2 are kept, all weights frozen. Of
a small masked-diffusion model of the packaged books: its largest weights, Wanda's and SparseGPT's
choice (also with the weights that SparseGPT gives to what is kept) by 128 rows; and masks learned
in 500 steps from the prior of the largest weights, of Wanda, or from chance. Nats per token of
held-out text by the hardened masks.
  python -m mdx.main --config=configs/claims/sparsity.py --workdir=runs/claims/sparsity

It has not been run to its end, so there is no verdict. An earlier form, whose grid began at a rate
of 2e-3, had these nats per token after two of four seeds (0, 1; one core of an AMD EPYC):
  dense 4.506, 4.248
  learned in 500 steps: from Wanda 4.523, 4.292; from the largest 4.528, 4.286; from chance 4.548,
    4.313
  one shot: SparseGPT with its weights 4.612, 4.405; Wanda 4.710, 4.569; SparseGPT's mask alone
    4.729, 4.588; the largest weights 4.787, 4.836
That is the order of the paper. 2e-3 was the best of its grid for all learned arms (on seed 100), an
edge, so this form has lower rates.
"""

from ml_collections import config_dict

from mdx.configs.claims import common

_RATES = (5e-4, 1e-3, 2e-3, 5e-3)
_LEARNED = ("magnitude", "wanda", "none")


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/sparsity.py takes no argument, got {arg!r}.")
  objective = dict(name="diffusion", mask_draw="exact_count")
  run = common.get_config(objective=objective, steps=500)
  run.init.base = common.get_config(objective=objective, steps=1500)
  run.eval.estimator = run.init.base.eval.estimator = "lattice_k"
  mask = lambda **fields: dict(adaptations=(dict(name="nm_mask", **fields),))
  # One step that moves nothing: the mask of the start is measured.
  once = dict(steps=1, optimizer=dict(learning_rate=1e-9))
  shot = lambda **fields: once | mask(strength=100.0, steps=1, **fields)
  arms = dict(dense=once,
              magnitude=shot(prior="magnitude"), wanda=shot(prior="wanda"),
              sparsegpt=shot(prior="sparsegpt"),
              sparsegpt_updated=shot(prior="sparsegpt", updates_weights=True))
  arms |= {f"learned_{prior}": mask(prior=prior, steps=500) for prior in _LEARNED}
  less = lambda left, right: dict(
      name=f"{left} beats {right}", left=left, right=right, measure="nats_per_token",
      larger_is_better=False)
  return config_dict.ConfigDict(dict(
      mode="claim", statement="learned 2:4 masks beat masks of one shot", seeds=(0, 1, 2, 3),
      tuning_seeds=(100,), run=run, arms=arms,
      grids={f"learned_{prior}": dict(key="optimizer.learning_rate", values=_RATES)
             for prior in _LEARNED},
      choose_by="-nats_per_token", measures=("nats_per_token", "bits_per_char", "seconds"),
      comparisons=(less("dense", "learned_wanda"), less("learned_magnitude", "learned_none"),
                   less("learned_wanda", "learned_magnitude"), less("learned_none", "wanda"),
                   less("learned_none", "sparsegpt_updated"), less("wanda", "magnitude"),
                   less("sparsegpt", "magnitude"), less("sparsegpt_updated", "sparsegpt"))))
