r"""Claim: a decoder that only training uses makes a better encoder.

DrBERT / BPDec, Liang et al. 2024, arXiv:2401.15861: MLM whose loss reads a decoder's states,
against MLM: two plain blocks, the enhanced mask decoder of DeBERTa, gradual unmasking attention,
and that with the encoder's states for half of the examples. Measured by a linear probe of the
frozen states of the encoder with few labels, on the toy grammar, real requests (`:intents`) or
books (`:text`); "at equal CPU time" gives MLM the steps that a decoder costs.
  python -m mdx.main --config=configs/claims/drbert.py --workdir=runs/claims/drbert
  python -m mdx.main --config=configs/claims/drbert.py:intents --workdir=runs/drbert_intents
  python -m mdx.main --config=configs/claims/drbert.py:text --workdir=runs/claims/drbert_text

Measured on 2 cores of an AMD EPYC (busy: 20 minutes; CPU seconds of steps a run: 21 MLM, 32 plain,
39 emd, 29 gua, 32 mixed), the grammar, seeds 0-2, 600 steps; accuracy of the probe, 0.45 before
training; two-sided paired t over the seeds:
  inconclusive at equal steps, against 0.926 of MLM: plain 0.927 (p = 0.95), emd 0.929 (p = 0.86),
    gua 0.927 (p = 0.93), mixed 0.925 (p = 0.85)
  inconclusive at equal CPU time: plain 0.913 (p = 0.44), emd 0.886 (p = 0.26), gua 0.918 (p = 0.65)
  not reproduced at equal CPU time: mixed 0.816, difference -0.110 +- 0.025, p = 0.017
A topic is found from the words alone; what a decoder might add is not seen by this probe.

The requests, 1500 steps (2 cores of an Intel Xeon, nothing beside it: 20 minutes; CPU seconds of
steps a run: 61 mlm, 88 plain, 123 emd, 92 gua, 92 mixed), 0.351 before training, against 0.733 of
MLM:
  not reproduced: plain 0.674, difference -0.059 +- 0.021, p = 0.041 (CPU time: -0.104, p = 0.001)
  inconclusive: emd 0.695, difference -0.038 +- 0.018, p = 0.067
  not reproduced: the same at equal CPU time: difference -0.121 +- 0.022, p = 0.011
  not reproduced: gua 0.678, difference -0.055 +- 0.016, p = 0.028 (CPU time: -0.091, p = 0.001)
  inconclusive: mixed 0.708, difference -0.025 +- 0.013, p = 0.082
  not reproduced: the same at equal CPU time: difference -0.072 +- 0.018, p = 0.019
The text has not been measured.
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar", "intents" or "text"."""
  masked = dict(mask_rate=0.15, mask_draw="exact_count")
  run = common.encoder(common.data_of(arg, "drbert"), objective=dict(
      name="decoded_mlm", decoder_layers=2, decoder_rate=1.0, **masked))
  arm = lambda decoder, **fields: dict(objective=dict(decoder=decoder, **fields))
  arms = dict(mlm=dict(objective=dict(name="mlm", **masked)), plain=arm("plain"), emd=arm("emd"),
              gua=arm("gua"), mixed=arm("gua", decoder_rate=0.5))
  pairs = (("plain", "mlm"), ("emd", "mlm"), ("gua", "mlm"), ("mixed", "mlm"))
  return common.claim("a decoder that only training uses makes a better encoder", run, arms,
                      common.compared(pairs))
