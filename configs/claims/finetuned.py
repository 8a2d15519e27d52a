r"""Claim: what replaced-token training teaches is worth more than MLM once it is fine-tuned.

ELECTRA (Clark et al. 2020, arXiv:2003.10555), RTS and SLM (Di Liello et al. 2022, arXiv:2210.13815)
against MLM, all pre-trained for 1500 steps on the packaged requests and fine-tuned on 70 of them
with their intents (one of 7): accuracy on test. The learning rate is chosen for each arm on
validation. The probes of the claims electra, rts and slm read frozen states instead.
  python -m mdx.main --config=configs/claims/finetuned.py --workdir=runs/claims/finetuned
"""

from ml_collections import config_dict

from mdx.configs import finetune
from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/finetuned.py takes no argument, got {arg!r}.")
  masked = dict(mask_rate=0.15, mask_draw="exact_count")
  base = common.encoder("intents", eval_steps=0, objective=dict(name="mlm", **masked))
  base.network.head = "lm"
  base.eval.probe.num_labels = 0
  run = finetune.get_config("intent")
  run.update(steps=200, eval_steps=50, checkpoint_steps=10_000)
  run.optimizer.update(warmup_steps=20, layer_decay=1.0)
  run.network.update(base.network)
  run.objective.pooling = "mean"
  run.data.length = base.data.length
  run.data.source.num_train = 70
  run.init.base = base
  pretrained = lambda head, **objective: dict(init=dict(base=dict(
      network=dict(head=head), objective=objective)))
  arms = dict(
      random=dict(init=dict(base=None)),
      mlm=dict(),
      slm=pretrained("lm", replace_mask_rate=0.0, replace_random_rate=1.0),
      rts=pretrained("rtd", name="rts", mask_rate=0.15),
      electra=pretrained("rtd", name="electra", generator_width=0.5, **masked))
  pairs = (("mlm", "random"), ("slm", "mlm"), ("rts", "mlm"), ("electra", "mlm"))
  return config_dict.ConfigDict(dict(
      mode="claim", statement="replaced-token training is worth more than MLM after fine-tuning",
      seeds=(0, 1, 2), run=run, arms=arms,
      grids={arm: dict(key="optimizer.learning_rate", values=(1e-3, 3e-3)) for arm in arms},
      choose_by="accuracy", measures=("accuracy", "test_accuracy"),
      comparisons=tuple(dict(name=f"{left} beats {right}", left=left, right=right,
                             measure="test_accuracy") for left, right in pairs)))
