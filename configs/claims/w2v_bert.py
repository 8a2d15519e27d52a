r"""Claim: without the contrast the codes of w2v-BERT collapse; with it the encoder is better.

Chung et al. 2021, arXiv:2108.06209, on synthetic speech (data.toys.phones): four small conformer
blocks, two below the contrast. "prediction" has no contrast and no loss of diversity, "contrast" no
masked prediction (wav2vec 2.0). Measured on held-out recordings: diversity loss (0: all codes are
used evenly), perplexity of the 24 codes, and a ridge probe of the phones of uncorrupted frames.
  python -m mdx.main --config=configs/claims/w2v_bert.py --workdir=runs/claims/w2v_bert

Measured on one core of an AMD EPYC (shared with another claim; 24 minutes, 20 of CPU time), seeds
0-2; two-sided paired t over the seeds, p by Holm:
                               joint            contrast         prediction
  diversity loss               0.389 +- 0.069   0.408 +- 0.048   0.252 +- 0.066
  perplexity of 24 codes       14.2 +- 1.7      13.8 +- 1.2      17.3 +- 1.6
  accuracy of the contrast     0.631 +- 0.009   0.667 +- 0.016
  accuracy of the prediction   0.541 +- 0.014                    0.408 +- 0.016
  probe, last block            0.843 +- 0.020   0.875 +- 0.021   0.796 +- 0.028
  probe, best block            0.868 +- 0.012   0.884 +- 0.015   0.806 +- 0.016
  inconclusive: without the contrast the diversity loss is larger (it is smaller; p = 0.113)
  inconclusive: without the contrast fewer codes are used (more are; p = 0.113)
  inconclusive: joint beats the contrast alone (it is behind: last block p = 0.098, best 0.053)
All four differences have the other sign than the claim, with every seed. Nothing collapses here: 24
codes for a dozen phones of synthetic sound are told apart by a softmax of four blocks without help.
The prediction alone has the worst probe; that was not among the comparisons.
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
