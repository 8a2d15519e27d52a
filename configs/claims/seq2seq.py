r"""Claim: a translator by refinement learns sooner from masked language models.

RUM-SUNDAE of the thesis "Making the Most of your Model" (Yoshida 2024): encoder and decoder from a
masked language model of texts of both languages, against the encoder alone and neither, on the toy
translation of configs/seq2seq.py. Exact match of held-out targets after 8 refinements of random
tokens, at four numbers of updates; `area` is its mean over them.
  python -m mdx.main --config=configs/claims/seq2seq.py --workdir=runs/claims/seq2seq

It has not been run.
"""

from ml_collections import config_dict

from mdx.configs import seq2seq

_CHOICES = (("both", "random"), ("both", "encoder"), ("encoder", "random"))


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/seq2seq.py takes no argument, got {arg!r}.")
  run = seq2seq.get_config()
  run.update(steps=240, batch_size=32, eval_steps=60, checkpoint_steps=10_000, log_steps=60,
             ema_decay=0.9)
  run.optimizer.update(learning_rate=3e-3, warmup_steps=20, schedule="constant")
  run.data.source.update(num_validation=256)
  run.eval.update(num_samples=1, final_samples=1)
  run.init.base.update(steps=500, batch_size=32, checkpoint_steps=500, log_steps=250)
  run.init.base.optimizer.learning_rate = 3e-3
  run.init.base.eval.update(num_samples=1, final_samples=1)
  arms = {"both": {}, "encoder": dict(init=dict(parts=dict(model="seed"))),
          "random": dict(init=dict(parts=dict(model="seed", encoder="seed"), base=None))}
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="encoder and decoder from masked language models learn to translate sooner",
      seeds=(0, 1, 2), run=run, arms=arms, grids=dict(), choose_by="",
      measures=("exact_match", "token_accuracy", "length_accuracy", "area"),
      comparisons=tuple(dict(name=f"{left} beats {right}, {name}", left=left, right=right,
                             measure=measure)
                        for left, right in _CHOICES
                        for measure, name in (("area", "mean over the updates"),
                                              ("exact_match", "at the end")))))
