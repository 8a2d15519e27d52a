r"""Learned unmasking (arXiv:2512.09106): a small policy says which positions a step commits.

A masked diffusion model of 4x4 Sudoku, the base of configs/mdpo.py, is trained once (kept under
`workdir/base`) and frozen. A policy of one block reads its confidences and is trained by GRPO for
right answers in few steps; it is told the weight of speed, so that one policy gives accuracy
against network calls from slow to fast. Ends with a table and a figure of it beside other rules:
  python -m mdx.main --config=configs/unmasking.py --workdir=runs/unmasking
Blocks of 4 cells, sets of positions by Plackett-Luce, or a quarter of the rollouts by an expert:
  python -m mdx.main --config=configs/unmasking.py --workdir=runs/unmasking_blocks \
    --config.rollout.sampler.block_length=4
  python -m mdx.main --config=configs/unmasking.py --workdir=runs/unmasking_pl \
    --config.rollout.sampler.actions=plackett_luce
  python -m mdx.main --config=configs/unmasking.py --workdir=runs/unmasking_expert \
    --config.rollout.sampler.expert_rate=0.25
On your model, or on another task (configs/unmasking.py:countdown):
  python -m mdx.main --config=configs/unmasking.py --workdir=runs/unmasking_mine \
    --config.init.checkpoint=runs/mdpo
The policy decodes wherever a sampler is named, of its own model or of another one:
  python -m mdx.main --config=configs/eval.py --workdir=runs/eval_unmasking \
    --config.init.checkpoint=runs/mdpo --config.sampler.name=unmasking \
    --config.sampler.policy=runs/unmasking --config.sampler.speed_alpha=1.0
"""

from mdx.configs import mdpo


def get_config(arg=None):
  """Sudoku, or with "countdown" Countdown."""
  if arg not in (None, "", "countdown"):
    raise ValueError(f"configs/unmasking.py takes countdown or nothing, got {arg!r}.")
  config = mdpo.get_config(",".join([*([arg] if arg else []), "action_grpo"]))
  config.update(updates=180, eval_steps=60, checkpoint_steps=60, log_steps=30)
  config.rollout.update(num_prompts=16, group_size=8, epochs=3)
  config.rollout.sampler.update(policy_width=32)
  config.optimizer.update(learning_rate=3e-3, warmup_steps=5)
  steps = (2, 3, 4, 6, 8, 16) if not arg else (2, 4, 8)
  config.eval.rules = dict(
      unmasking=dict(speed_alpha=(0.0, 0.3, 1.0, 3.0, 10.0)),
      confidence=dict(steps=steps),
      threshold=dict(threshold=(0.5, 0.7, 0.9, 0.98)),
      factor=dict(factor=(0.25, 0.5, 1.0, 2.0)),
      entropy_bounded=dict(entropy_bound=(0.01, 0.1, 0.3, 1.0)),
      klass=dict(kl_threshold=(0.001, 0.01, 0.1)))
  return config
