r"""Claim: a causal model that recovers masked documents answers backward questions (arXiv:2510.09885).

  python -m mdx.main --config=configs/claims/masked_finetuning.py \
    --workdir=runs/claims/masked_finetuning
"""

from ml_collections import config_dict

from mdx import config as config_lib
from mdx.configs import masked_finetuning


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/masked_finetuning.py takes no argument, got {arg!r}.")
  configs = {name: masked_finetuning.get_config(name) for name in masked_finetuning.ARMS}
  run = configs["plain"]
  run.update(eval_steps=0)

  def arm(config):
    whole = config_lib.to_dict(config)
    return dict(objective=whole["objective"], data=dict(source=dict(
        stage=whole["data"]["source"]["stage"])), init=dict(base=dict(
            objective=whole["init"]["base"]["objective"])))

  better = lambda left, right, kind="backward": dict(
      name=f"{left} answers more {kind} questions than {right}", left=left, right=right,
      measure=f"exact_{kind}")
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="a causal model that recovers masked documents answers backward questions",
      seeds=(0, 1, 2),
      run=run,
      arms={name: arm(config) for name, config in configs.items()},
      grids=dict(),
      choose_by="",
      measures=("exact_forward", "exact_backward", "rouge1_backward", "exact_public_backward"),
      comparisons=(better("masked", "plain"), better("masked", "random"),
                   better("diffusion", "plain"), better("masked", "diffusion"),
                   better("reversed", "masked"), better("masked", "plain", "forward"))))
