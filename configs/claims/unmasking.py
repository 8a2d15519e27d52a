r"""Claim: a learned rule of unmasking beats rules by hand at an equal number of network calls.

arXiv:2512.09106, on 4x4 Sudoku with many solutions: one policy, told the weight of speed, against
even decoding (`confidence`), confidence thresholds, factors, entropy bounds and KLASS on the same
frozen base model; in one block (full diffusion), and in four blocks of four cells
(semi-autoregressive), where it is claimed to be at most 2 points worse.
  python -m mdx.main --config=configs/claims/unmasking.py --workdir=runs/claims/unmasking

With the argument `full` or `blocks` that arm alone is run. Accuracy at a mean number of calls is
read off the cells of a rule (`eval.rules.front`). It has not been run to its end. One policy on one
base (configs/unmasking.py with width 64 and 60 updates of 30 x 256 rollouts, 512 puzzles) had
97.9 % in 6.8 calls and 93.2 in 5.9, where threshold 0.7 had 94.3 in 5.9, entropy_bound 0.5 had 99.4
in 4.8 and even decoding 68.0 in 6 and 84.4 in 8 (256 puzzles): ahead of the last only.
"""

from ml_collections import config_dict

from mdx.configs import unmasking

_CALLS = {"full": (4, 6), "blocks": (6, 8)}
_RULES = ("confidence", "threshold", "factor", "entropy_bounded", "klass")


def get_config(arg=None):
  """Arms and comparisons."""
  if arg not in (None, "", *_CALLS):
    raise ValueError(f"configs/claims/unmasking.py takes one of {', '.join(_CALLS)}, or nothing "
                     f"for both; got {arg!r}.")
  run = unmasking.get_config()
  run.update(updates=90, eval_steps=90, checkpoint_steps=90)
  run.eval.num_examples = 512
  run.eval.rules = dict(
      unmasking=dict(speed_alpha=(0.1, 1.0, 10.0)),
      confidence=dict(steps=(3, 4, 6)),
      threshold=dict(threshold=(0.3, 0.5, 0.7)),
      factor=dict(factor=(1.0, 2.0)),
      entropy_bounded=dict(entropy_bound=(0.3, 1.0)),
      klass=dict(threshold=(0.5, 0.7), kl_threshold=0.1, kl_steps=1))
  run.init.base.update(steps=300, eval_steps=300, checkpoint_steps=300)
  run.init.base.eval.final_samples = 2
  blocks = dict(rollout=dict(sampler=dict(block_length=4)),
                eval=dict(rules=dict(confidence=dict(steps=(4, 8, 16)))))
  measure = lambda rule, calls: f"rule:{rule}@{calls}"
  arms = {name: value for name, value in (("full", {}), ("blocks", blocks))
          if arg in (None, "", name)}
  comparisons = tuple(
      dict(name=f"the learned rule {'beats' if arm == 'full' else 'is no worse than'} {rule}, "
                f"{arm}, {calls} calls", left=arm, right=arm,
           measure=measure("unmasking", calls), right_measure=measure(rule, calls),
           margin=0.0 if arm == "full" else 0.02)
      for arm in arms for rule in _RULES for calls in _CALLS[arm])
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="a learned rule of unmasking beats rules by hand at equal network calls",
      seeds=(0, 1, 2),
      run=run,
      arms=arms,
      grids=dict(),
      choose_by="last",
      measures=tuple(measure(rule, calls) for rule in ("unmasking", *_RULES)
                     for calls in (4, 6, 8)) + ("nfe_rollout",),
      comparisons=comparisons,
  ))
