r"""Claim: at equal forgetting, generic labels and NPO cost fewer nats on what is kept than ascent.

Who's Harry Potter (arXiv:2310.02238), NPO (arXiv:2404.05868).
  python -m mdx.main --config=configs/claims/unlearn.py --workdir=runs/claims/unlearn
"""

from ml_collections import config_dict

from mdx import config as config_lib
from mdx.configs import unlearn


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/unlearn.py takes no argument, got {arg!r}.")
  causal = {name: unlearn.get_config(name) for name in unlearn.METHODS}
  noised = {name: unlearn.get_config(f"{name},diffusion") for name in ("difference", "generic")}
  run = causal["ascent"]
  run.update(eval_steps=5, log_steps=50)
  run.eval.update(evaluators=())

  def arm(config, **changes):
    whole = config_lib.to_dict(config)
    return dict(objective=whole["objective"], frozen=whole["frozen"],
                init=dict(base=dict(objective=whole["init"]["base"]["objective"]))) | changes

  arms = {name: arm(config) for name, config in causal.items()} | {
      f"{name}_diffusion": arm(config) for name, config in noised.items()} | {
          # Never trained on the texts to forget; its one step moves nothing.
          "oracle": dict(steps=1, optimizer=dict(learning_rate=1e-9),
                         init=dict(base=dict(data=dict(source=dict(part="retain")))))}
  cheaper = lambda left, right: dict(
      name=f"{left} costs fewer nats of what is kept than {right}", left=left, right=right,
      measure="retain_nats", equal="forget_nats", larger_is_better=False)
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="at equal forgetting, generic labels and NPO cost less of what is kept than ascent",
      seeds=(0, 1, 2),
      run=run,
      arms=arms,
      grids=dict(),
      choose_by="",
      measures=("forget_probability", "forget_nats", "retain_nats"),
      comparisons=(
          cheaper("generic", "ascent"), cheaper("generic", "difference"), cheaper("npo", "ascent"),
          cheaper("npo", "difference"), cheaper("difference", "ascent"),
          cheaper("generic_diffusion", "difference_diffusion"),
          dict(name="generic labels end within 0.05 nats of a model that never saw the texts",
               left="generic", right="oracle", measure="retain_nats", larger_is_better=False,
               margin=0.05))))
