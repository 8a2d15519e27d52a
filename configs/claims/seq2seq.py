r"""Claim: a translator by refinement learns sooner from masked language models.

RUM-SUNDAE of the thesis "Making the Most of your Model" (Yoshida 2024): encoder and decoder from a
masked language model of texts of both languages, against the encoder alone and neither, on the toy
translation of configs/seq2seq.py. Exact match of held-out targets after 8 refinements of random
tokens, at four numbers of updates; `area` is its mean over them.
  python -m mdx.main --config=configs/claims/seq2seq.py --workdir=runs/claims/seq2seq

Measured on one core of an AMD EPYC (shared with another claim; 9 minutes), seeds 0-2; two-sided
paired t over the seeds, p by Holm for six comparisons:
                                both             encoder          random
  exact match, 240 updates      0.936 +- 0.016   0.888 +- 0.010   0.839 +- 0.018
  mean over the updates         0.676 +- 0.013   0.589 +- 0.031   0.492 +- 0.021
  length                        0.964 +- 0.012   0.941 +- 0.014   0.917 +- 0.022
  reproduced: both beats random, mean over the updates (p = 0.038)
  inconclusive: both beats random at the end (0.055); both beats encoder (0.086; at the end 0.136);
    encoder beats random (0.086; at the end 0.136)
Every seed has the claimed order in all six; three seeds are few for six corrected tests.
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
