r"""Claim: a lattice of times lowers the variance of the gradient of masked diffusion.

Kingma et al. 2021, arXiv:2107.00630 (one offset for the batch), as MD4 (Shi et al. 2024,
arXiv:2406.04329) and MDLM (Sahoo et al. 2024, arXiv:2406.07524) use it; against a time in each of
B strata and B independent times, all with Bernoulli masks; and with an exact count of masks. All
at the weights of the same model, on the same text.
  python -m mdx.main --config=configs/claims/lattice_times.py --workdir=runs/claims/lattice_times
"""

from ml_collections import config_dict

from mdx.configs.claims import common

_TIMES = ("independent", "stratified", "lattice")


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/lattice_times.py takes no argument, got {arg!r}.")
  trained = common.get_config(objective=dict(
      name="diffusion", schedule=dict(name="linear", eps=1e-3), time="lattice",
      mask_draw="bernoulli"))
  run = common.get_config(mode="eval", objective=trained.objective.to_dict())
  run.init = dict(checkpoint="", params="raw", base=trained)
  run.eval.update(gradient_draws=1024, final_samples=1)
  arms = {time: dict(objective=dict(time=time)) for time in _TIMES}
  arms["exact_count"] = dict(objective=dict(time="lattice", mask_draw="exact_count"))
  comparisons = [
      dict(name=f"{left} has a smaller {what} variance than {right}", left=left, right=right,
           measure=f"{what}_variance", larger_is_better=False, ratio=True)
      for left, right in (("lattice", "independent"), ("stratified", "independent"),
                          ("lattice", "stratified"), ("exact_count", "lattice"))
      for what in ("gradient", "loss")]
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="a lattice of times lowers the variance of the gradient",
      seeds=(0, 1, 2),
      run=run,
      arms=arms,
      grids=dict(),
      choose_by="",
      measures=("gradient_variance", "gradient_square", "loss_variance", "bits_per_char"),
      comparisons=tuple(comparisons),
  ))
