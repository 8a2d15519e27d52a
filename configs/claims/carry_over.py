r"""Claim: carrying clean tokens over, and no probability for the mask, each better the bound.

The ablation of MDLM (Sahoo et al. 2024, arXiv:2406.07524), in discrete time with 1000 steps: from
its parameterization to that of D3PM (Austin et al. 2021, arXiv:2107.03006). Without carry-over
the text is read off the network's prediction for a text without masks, which it learns to copy
and which costs -log p(x_i | x); with a mask column the mask is one of the ids it predicts.
  python -m mdx.main --config=configs/claims/carry_over.py --workdir=runs/claims/carry_over
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
