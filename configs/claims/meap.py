r"""Claim: masked inputs make a causal model retrieve keys sooner, and cost no likelihood.

MEAP, arXiv:2502.07490. Texts of 48 tokens have 2 pairs of a key and a value in a Markov filler and
end with the query of one key, which is never masked; every token is a target. Arms at equal steps
and equal cost, each at the best of three rates on another seed: no masks (NTP), and 15 % of the
inputs masked. Measured: steps until the answer is right for 90 % of 500 held-out texts (all 1500
where it never is), and accuracy and nats of the answer at the end.
  python -m mdx.main --config=configs/claims/meap.py --workdir=runs/claims/meap

This form has not been run. Measured of an earlier one (texts of 24 tokens with 3 pairs, 1000 steps,
one rate, queries masked too) on 2 cores of an AMD EPYC (very busy: 28 minutes; 57 CPU seconds a
run), seeds 0-4; paired t, two-sided:
  inconclusive: MEAP is at 90 % sooner than NTP:
    1000 (never) against 777 updates, difference +223 +- 210, p = 0.076
  inconclusive: MEAP is more often right at the end than NTP:
    0.33 against 0.68, difference -0.34 +- 0.49, p = 0.189
NTP is at 90 % after 550 to 700 updates with three seeds, and ends at 0.06 and 0.35 with two; MEAP
is never above 0.43. A masked key or value leaves nothing to be learned from a text, and texts of 24
tokens hardly have the irrelevant ones that masks are said to free attention from; longer texts
were not tried.
"""

from ml_collections import config_dict

from mdx.configs import meap
from mdx.data.toys import recall

_RATES = (1.5e-3, 3e-3, 6e-3)


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/meap.py takes no argument, got {arg!r}.")
  run = meap.get_config()
  run.update(steps=1500, batch_size=64, eval_steps=50, checkpoint_steps=10_000, log_steps=250,
             ema_decay=0.0)
  run.init.params = "raw"
  run.network.update(num_layers=2, width=64, num_heads=2, mlp_width=128, init_std=0.3)
  run.optimizer.update(learning_rate=3e-3, schedule="constant", warmup_steps=50, weight_decay=0.0)
  run.objective.update(mask_rate=0.0, protect_last=3)  # "?", the key and its value
  run.tokenizer.path = recall.TOKENIZER
  run.data = dict(length=48, source=dict(name="recall", length=48, num_pairs=2, num_train=40_000,
                                         num_validation=512, seed=0),
                  packing="pad", append_eos=False, isolate_documents=True)
  run.eval.update(baselines=False, num_batches=0, final_samples=1, num_samples=1)
  run.sampler.num_samples = 0
  compared = lambda what, measure, **fields: dict(
      name=f"MEAP {what} NTP", left="meap", right="ntp", measure=measure, **fields)
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="masked inputs make a causal model retrieve keys sooner",
      seeds=(0, 1, 2, 3, 4),
      tuning_seeds=(100,),
      run=run,
      arms=dict(ntp=dict(), meap=dict(objective=dict(mask_rate=0.15))),
      grids={arm: dict(key="optimizer.learning_rate", values=_RATES) for arm in ("ntp", "meap")},
      choose_by="area",
      measures=("reach:0.9", "last", "nats_per_token", "tokens_per_second"),
      comparisons=(
          compared("is at 90 % sooner than", "reach:0.9", larger_is_better=False),
          compared("is more often right at the end than", "last"))))
