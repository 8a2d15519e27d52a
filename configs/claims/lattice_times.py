r"""Claim: a lattice of times lowers the variance of the gradient of masked diffusion.

Kingma et al. 2021, arXiv:2107.00630 (one offset for the batch), as MD4 (Shi et al. 2024,
arXiv:2406.04329) and MDLM (Sahoo et al. 2024, arXiv:2406.07524) use it; against a time in each of
B strata and B independent times, all with Bernoulli masks; and with an exact count of masks.
  python -m mdx.main --config=configs/claims/lattice_times.py --workdir=runs/claims/lattice_times
"""

from ml_collections import config_dict

from mdx.configs.claims import common

_TIMES = ("independent", "stratified", "lattice")


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/lattice_times.py takes no argument, got {arg!r}.")
  run = common.get_config(objective=dict(
      name="diffusion", schedule=dict(name="linear", eps=1e-3), time="independent",
      mask_draw="bernoulli"))
  run.eval.gradient_draws = 64
  arms = {time: dict(objective=dict(time=time)) for time in _TIMES}
  arms["exact_count"] = dict(objective=dict(time="lattice", mask_draw="exact_count"))
  comparisons = []
  for left, right in (("lattice", "independent"), ("stratified", "independent"),
                      ("lattice", "stratified"), ("exact_count", "lattice")):
    pair = dict(left=left, right=right, larger_is_better=False)
    comparisons += [
        dict(pair, name=f"{left} has a smaller gradient variance than {right}",
             measure="gradient_variance", ratio=True),
        dict(pair, name=f"{left} has a smaller loss variance than {right}",
             measure="loss_variance", ratio=True),
        dict(pair, name=f"{left} has a better bound than {right}", measure="bits_per_char")]
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="a lattice of times lowers the variance of the gradient, and the bound with it",
      seeds=(0, 1, 2),
      run=run,
      arms=arms,
      grids=dict(),
      choose_by="",
      measures=("gradient_variance", "gradient_square", "loss_variance", "bits_per_char"),
      comparisons=tuple(comparisons),
  ))
