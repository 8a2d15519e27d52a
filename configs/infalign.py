r"""InfAlign: RL for answers of which the best, or the worst, of N counts (arXiv:2412.19792).

Rewards are the shares of 32 answers of the base model that they exceed (calibrated), transformed
for the procedure at inference, in RL with a divergence from the base model. The task is 4x4 Sudoku,
rewarded by the share of complete rows, columns and boxes. Trains the base model once (kept under
`workdir/base`), improves it for the best of 4, and measures win rates over the base model:
  python -m mdx.main --config=configs/infalign.py --workdir=runs/infalign
The same with an autoregressive model, of which the divergence is measured too:
  python -m mdx.main --config=configs/infalign.py:ar --workdir=runs/infalign_ar
For the worst of 8, or for rewards without a transform:
  ... --config.rollout.inference.transform=worst_of --config.rollout.inference.num_samples=8
  ... --config.rollout.inference.transform=identity
"""

from mdx import config as config_lib
from mdx.configs import mdpo


def get_config(arg=None):
  """A diffusion model, or with "ar" an autoregressive one."""
  is_causal = config_lib.parse_arg(arg, ar=False)["ar"]
  config = mdpo.get_config("causal_grpo" if is_causal else "diffu_grpo")
  config.update(updates=60, eval_steps=20, checkpoint_steps=20)
  config.task.update(partial_reward=True)
  base = config.init.base
  base.update(steps=300, eval_steps=150, checkpoint_steps=150)
  base.data.source.task = config.task.to_dict()
  # k2 has the gradient of the divergence; the variance of the transformed reward is 1.
  config.objective.update(kl=1.0, kl_form="k2", advantage="mean")
  config.rollout.update(num_prompts=32, group_size=8, rewards=("calibrated", "inference"),
                        calibration_samples=32)
  config.rollout.inference.update(transform="best_of", num_samples=4, kl=0.5)
  config.eval.update(num_examples=256, pass_k=(), pass_samples=16, pass_examples=128,
                     win_sizes=(4,))
  return config
