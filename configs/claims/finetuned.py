r"""Claim: what replaced-token training teaches is worth more than MLM once it is fine-tuned.

ELECTRA (Clark et al. 2020, arXiv:2003.10555), RTS and SLM (Di Liello et al. 2022, arXiv:2210.13815)
against MLM, and all against random weights: pre-trained for 1500 steps on the packaged requests and
fine-tuned on 70 of them with their intents (one of 7): accuracy on test. The learning rate of each
arm is chosen on validation. The probes of the claims electra, rts and slm read frozen states.
  python -m mdx.main --config=configs/claims/finetuned.py --workdir=runs/claims/finetuned

Measured on 2 cores of an Intel Xeon (another claim beside it: 18 minutes), seeds 0-2; accuracy
on test; two-sided paired t over the seeds; seven tests, uncorrected:
  not reproduced: slm beats mlm: 0.797 against 0.900, difference -0.103 +- 0.011, p = 0.004
  not reproduced: rts beats mlm: 0.723 against 0.900, difference -0.177 +- 0.023, p = 0.006
  not reproduced: electra beats mlm: 0.764 against 0.900, difference -0.136 +- 0.047, p = 0.038
  reproduced: mlm beats random: 0.900 against 0.697, difference +0.203 +- 0.025, p = 0.005
  reproduced: slm beats random: difference +0.100 +- 0.035, p = 0.038
  inconclusive: rts beats random: difference +0.026 +- 0.033, p = 0.306
  inconclusive: electra beats random: difference +0.067 +- 0.054, p = 0.167
Every arm chose 3e-3, the larger of the two rates.
"""

from ml_collections import config_dict

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/finetuned.py takes no argument, got {arg!r}.")
  masked = dict(mask_rate=0.15, mask_draw="exact_count")
  base = common.encoder("intents", eval_steps=0, objective=dict(name="mlm", **masked))
  base.network.head = "lm"
  base.eval.probe.num_labels = 0
  run = common.finetuned(base, eval_steps=50)
  pretrained = lambda head, **objective: dict(init=dict(base=dict(
      network=dict(head=head), objective=objective)))
  arms = dict(
      random=dict(init=dict(base=None)),
      mlm=dict(),
      slm=pretrained("lm", replace_mask_rate=0.0, replace_random_rate=1.0),
      rts=pretrained("rtd", name="rts", mask_rate=0.15),
      electra=pretrained("rtd", name="electra", generator_width=0.5, **masked))
  pairs = (*((arm, "mlm") for arm in ("slm", "rts", "electra")),
           *((arm, "random") for arm in ("mlm", "slm", "rts", "electra")))
  return config_dict.ConfigDict(dict(
      mode="claim", statement="replaced-token training is worth more than MLM after fine-tuning",
      seeds=(0, 1, 2), run=run, arms=arms,
      grids={arm: dict(key="optimizer.learning_rate", values=(1e-3, 3e-3)) for arm in arms},
      choose_by="accuracy", measures=("accuracy", "test_accuracy"),
      comparisons=tuple(dict(name=f"{left} beats {right}", left=left, right=right,
                             measure="test_accuracy") for left, right in pairs)))
