r"""Claim: a reward transformed for the best or the worst of N wins more there (arXiv:2412.19792).

Task `translation`: 5 symbols with 3 translations of quality 0, 1/2 and 1, which a small
autoregressive base model draws equally often; the reward is the mean quality. Calibrated by 32
answers of the base model and transformed by the identity or by the fixed points for the best and
the worst of 4; GRPO with the divergence at weight 1. Measured on 64 held-out sources, 16 answers of
each model: win rates over the base model of the best of 4, the worst of 4, and of one answer, at
the largest divergence that both arms have reached.
  python -m mdx.main --config=configs/claims/infalign.py --workdir=runs/claims/infalign

Five seeds, one core of an AMD EPYC under heavy load, 50 minutes; paired t, at equal divergence:
  worst of 4: worst_of .669, identity .664 (p = .020), best_of .652 (p < .001): reproduced
  one answer: identity .698, best_of .689 (p < .001): reproduced
  best of 4: best_of .760, identity .764 (p = .036): the other way; .688, worst_of .683 (p = .16)
By Holm over the five, the differences at p < .001 stand, the others do not. The ends of the arms
lie at 2.18 (best_of), .31 (identity) and .14 nats (worst_of), so pairs with best_of are compared at
its first points, which it passes in two updates: the weakest part of this test.
A first form, three seeds, a rate of 2e-3 and a point of the curve every 6 updates, could not tell.
"""

from ml_collections import config_dict

from mdx.configs import infalign
from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/infalign.py takes no argument, got {arg!r}.")
  run = infalign.get_config("ar")
  sizes = common.translate(run, dict(min_length=5, max_length=5, num_train=1500, num_validation=64,
                                     num_test=64), steps=300)
  # Rates are compared at equal divergence between points of the curve, which must lie near.
  run.update(updates=36, eval_steps=2, checkpoint_steps=36)
  run.optimizer.update(learning_rate=5e-4, schedule="constant")
  run.rollout.update(num_prompts=16, group_size=16)
  run.rollout.sampler.gen_length = sizes.answer_length
  run.eval.update(nfe=(sizes.answer_length,), curve_nfe=sizes.answer_length, num_examples=64,
                  batch_size=512, pass_examples=0)
  transform = lambda name: dict(rollout=dict(inference=dict(transform=name)))
  compared = lambda left, right, measure, what: dict(
      name=f"{left} has the larger {what} than {right} at equal divergence", left=left,
      right=right, measure=measure, equal="kl")
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="a reward transformed for the best or worst of N wins more there",
      seeds=(0, 1, 2, 3, 4),
      run=run,
      arms={name: transform(name) for name in ("identity", "best_of", "worst_of")},
      grids=dict(),
      choose_by="",
      measures=("win_rate", "best_of_4", "worst_of_4", "kl"),
      comparisons=(
          compared("best_of", "identity", "best_of_4", "win rate of the best of 4"),
          compared("best_of", "worst_of", "best_of_4", "win rate of the best of 4"),
          compared("worst_of", "identity", "worst_of_4", "win rate of the worst of 4"),
          compared("worst_of", "best_of", "worst_of_4", "win rate of the worst of 4"),
          compared("identity", "best_of", "win_rate", "standard win rate"))))
