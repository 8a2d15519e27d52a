r"""Claim: carrying clean tokens over, and no probability for the mask, each better the bound.

The ablation of MDLM (Sahoo et al. 2024, arXiv:2406.07524), in discrete time with 1000 steps: from
its parameterization to that of D3PM (Austin et al. 2021, arXiv:2107.03006). Without carry-over
the text is read off the network's prediction for a text without masks, which it learns to copy
and which costs -log p(x_i | x); with a mask column the mask is one of the ids it predicts.
  python -m mdx.main --config=configs/claims/carry_over.py --workdir=runs/claims/carry_over

Measured on 2 cores of an AMD EPYC (shared with other work; 6 minutes), seeds 0-2, 0.14M
parameters, 500 steps; bits per character; two-sided paired t over the seeds:
  inconclusive: continuous has a better bound than discrete:
    3.354 against 3.337, difference +0.017 +- 0.017, p = 0.235
  inconclusive: discrete has a better bound than no_carry_over:
    3.337 against 3.373, difference -0.036 +- 0.044, p = 0.292
  inconclusive: discrete has a better bound than mask_column:
    3.337 against 3.384, difference -0.046 +- 0.054, p = 0.274
  inconclusive: no_carry_over has a better bound than neither:
    3.373 against 3.382, difference -0.009 +- 0.086, p = 0.879
Nothing is significant: carry-over (0.036) and the mask's column (0.046 bits) have the claimed
sign, continuous time has not (0.017); seeds alone differ by 0.03 to 0.07.
"""

from ml_collections import config_dict

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/carry_over.py takes no argument, got {arg!r}.")
  run = common.get_config(objective=dict(
      name="d3pm", num_steps=1000, schedule=dict(name="linear", eps=0.0), time="lattice",
      mask_draw="bernoulli", mask_column=False, carry_over=True))
  change = lambda **fields: dict(objective=fields)
  arms = dict(
      continuous=change(name="diffusion", schedule=dict(name="linear", eps=1e-3), time="lattice",
                        mask_draw="bernoulli"),
      discrete=dict(), no_carry_over=change(carry_over=False), mask_column=change(mask_column=True),
      neither=change(carry_over=False, mask_column=True))
  pairs = (("continuous", "discrete"), ("discrete", "no_carry_over"), ("discrete", "mask_column"),
           ("no_carry_over", "neither"))
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="continuous time, carry-over and no probability of the mask better the bound",
      seeds=(0, 1, 2),
      run=run,
      arms=arms,
      grids=dict(),
      choose_by="",
      measures=("bits_per_char", "bits_per_char_stderr"),
      comparisons=tuple(
          dict(name=f"{left} has a better bound than {right}", left=left, right=right,
               measure="bits_per_char", larger_is_better=False) for left, right in pairs),
  ))
