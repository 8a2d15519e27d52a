r"""Claim: without the contrast the codes of w2v-BERT collapse; with it the encoder is better.

Chung et al. 2021, arXiv:2108.06209, on synthetic speech (data.toys.phones): four small conformer
blocks, two below the contrast. "prediction" has no contrast and no loss of diversity, "contrast" no
masked prediction (wav2vec 2.0). Measured on held-out recordings: diversity loss (0: all codes are
used evenly), perplexity of the 24 codes, and a ridge probe of the phones of uncorrupted frames.
  python -m mdx.main --config=configs/claims/w2v_bert.py --workdir=runs/claims/w2v_bert

It has not been run to its end, so there is no verdict: five of the nine runs, on one busy core of
an AMD EPYC (172 to 243 seconds each).
                               joint          contrast       prediction
                               seeds 0, 1     seeds 0, 1     seed 0
  diversity loss               0.460, 0.385   0.453, 0.416   0.321
  perplexity of 24 codes       12.4, 14.3     12.7, 13.7     15.7
  accuracy of the contrast     0.622, 0.641   0.648, 0.676
  accuracy of the prediction   0.540, 0.555                  0.410
  probe, last block            0.856, 0.819   0.877, 0.852   0.765
  probe, best block            0.872, 0.854   0.891, 0.867   0.789
Neither half shows: the codes are used less evenly with the contrast than without, and both seeds
have a better probe of the contrast alone. The prediction alone has the worst probe (one seed).
"""

from mdx.configs import w2v_bert
from mdx.configs.claims import common
from mdx.data.toys import phones


def toy(run):
  """Synthetic speech and a network for it, in a config of frames."""
  run.tokenizer.path = phones.TOKENIZER
  run.data.update(length=32, channels=12)
  run.data.source = dict(name="phones")
  run.network.update(num_layers=4, width=32, num_heads=2, mlp_width=64)
  run.objective.frontend.update(channels=8, strides=(1,))
  run.update(ema_decay=0.0, eval_steps=0, checkpoint_steps=10_000, log_steps=100)
  run.init.params = "raw"


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/w2v_bert.py takes no argument, got {arg!r}.")
  run = w2v_bert.get_config()
  toy(run)
  run.steps = 1500
  run.objective.update(mask_rate=0.08, span=4, num_distractors=15)
  run.objective.codes.update(num_codes=24, code_width=24, decay=0.998)
  run.eval.evaluators = ("frame_probe",)
  run.eval.frame_probe = dict(num_recordings=15, num_draws=5, pool=64, ridge=1.0, source=dict())
  arms = dict(
      joint=dict(),
      prediction=dict(objective=dict(contrast_scale=0.0, diversity_scale=0.0)),
      contrast=dict(objective=dict(context_layers=0)))
  spread = dict(left="prediction", right="joint")
  best = dict(left="joint", right="contrast")
  claim = common.claim(
      "masked prediction alone collapses the codes, and with the contrast it learns more", run,
      arms, (dict(name="without the contrast the diversity loss is larger", **spread,
            measure="held_out_diversity_loss"),
       dict(name="without the contrast fewer codes are used", **spread,
            measure="held_out_code_perplexity", larger_is_better=False),
       dict(name="joint beats the contrast alone, last block", **best, measure="probe_accuracy"),
       dict(name="joint beats the contrast alone, best block", **best,
            measure="frame_probe_best")))
  claim.measures = ("held_out_diversity_loss", "held_out_code_perplexity",
                    "held_out_prediction_accuracy", "held_out_contrast_accuracy", "probe_accuracy",
                    "frame_probe_best", "seconds")
  return claim
