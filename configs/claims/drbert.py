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
A topic is found from the words alone; what a decoder might add is not seen by this probe. The
requests and the text have not been measured.
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
