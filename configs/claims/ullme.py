r"""Claim: generation, preference and consistency make a decoder embed better (GRL).

ULLME, arXiv:2408.03402: from the causal model of configs/ullme.py on the toy grammar, 100 steps on
512 queries of three words with a right and a wrong passage: all terms ("grl"), without the
consistency of both scores ("apart"), and the contrast alone ("contrast"). nDCG@10 of 200 held-out
queries among all their passages.
  python -m mdx.main --config=configs/claims/ullme.py --workdir=runs/claims/ullme

Measured on 2 very busy cores of an AMD EPYC (13 minutes), seeds 0-2; paired t, two-sided:
  inconclusive: grl beats contrast: 0.217 against 0.212, difference +0.005 +- 0.025, p = 0.75
  inconclusive: consistency helps: 0.217 against 0.213, difference +0.004 +- 0.004, p = 0.23
The spread over seeds (0.014 to 0.026) is five times the difference, and one rate served all arms,
so this set-up cannot show an effect of that size.
"""

from ml_collections import config_dict

from mdx.configs import ullme


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/ullme.py takes no argument, got {arg!r}.")
  run = ullme.get_config()
  run.update(eval_steps=0, checkpoint_steps=10_000)
  run.init.base.update(steps=800, eval_steps=0, checkpoint_steps=800)
  run.init.base.eval.update(final_samples=1, baselines=False)
  alone = dict(generation_scale=0.0, preference_scale=0.0, consistency_scale=0.0)
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="generation, preference and consistency make a decoder embed better",
      seeds=(0, 1, 2), run=run,
      arms=dict(grl=dict(), apart=dict(objective=dict(consistency_scale=0.0)),
                contrast=dict(objective=alone)),
      grids=dict(), choose_by="", measures=("ndcg_at_10", "mrr_at_10", "seconds"),
      comparisons=(
          dict(name="grl beats contrast", left="grl", right="contrast", measure="ndcg_at_10"),
          dict(name="consistency helps", left="grl", right="apart", measure="ndcg_at_10"))))
