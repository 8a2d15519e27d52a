r"""Claim: the smaller the blocks of block diffusion, the better the likelihood.

Arriola et al. 2025, arXiv:2503.09573: between diffusion (one block of 64 tokens) and an
autoregressive model (blocks of one token), at equal steps.
  python -m mdx.main --config=configs/claims/block_size.py --workdir=runs/claims/block_size

Measured on 2 cores of an AMD EPYC (shared with other work; 13 minutes), seeds 0-2, 0.14M
parameters, 500 steps; bits per character; two-sided paired t over the seeds:
  reproduced: block_1 has a better likelihood than block_4:
    2.424 against 2.947, difference -0.523 +- 0.047, p = 0.003
  reproduced: block_4 has a better likelihood than block_16:
    2.947 against 3.173, difference -0.226 +- 0.016, p = 0.002
  reproduced: block_16 has a better likelihood than diffusion:
    3.173 against 3.350, difference -0.177 +- 0.024, p = 0.006
  reproduced: ar has a better likelihood than block_1:
    2.309 against 2.424, difference -0.115 +- 0.017, p = 0.007
Blocks of one token are an autoregressive model too, but one that is shown a mask at the place it
predicts, in a second stream, rather than the token before it: at equal steps it is behind.
"""

from ml_collections import config_dict

from mdx.configs.claims import common

_BLOCKS = (1, 4, 16)


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/block_size.py takes no argument, got {arg!r}.")
  schedule = dict(name="linear", eps=1e-4)
  blocks = {f"block_{size}": dict(objective=dict(
      name="block_diffusion", attention=dict(name="block_causal", block_length=size),
      schedule=schedule, time="lattice", mask_draw="exact_count")) for size in _BLOCKS}
  run = common.get_config(objective=dict(name="diffusion", schedule=schedule, time="lattice",
                                         mask_draw="exact_count"))
  order = (*blocks, "diffusion")
  comparisons = [dict(name=f"{left} has a better likelihood than {right}", left=left, right=right,
                      measure="bits_per_char", larger_is_better=False)
                 for left, right in (*zip(order, order[1:]), ("ar", "block_1"))]
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="the smaller the blocks, the better the likelihood",
      seeds=(0, 1, 2),
      run=run,
      arms=dict(ar=dict(objective=dict(name="ar")), **blocks, diffusion=dict()),
      grids=dict(),
      choose_by="",
      measures=("bits_per_char", "bits_per_char_stderr", "tokens_per_second"),
      comparisons=tuple(comparisons),
  ))
