r"""Claim: a decoder that only training uses makes a better encoder.

DrBERT / BPDec, Liang et al. 2024, arXiv:2401.15861: MLM whose loss reads a decoder's states,
against MLM: two plain blocks, the enhanced mask decoder of DeBERTa, gradual unmasking attention,
and that with the encoder's states for half of the examples. Measured by a linear probe of the
frozen states of the encoder with few labels, on the toy grammar or (`:text`) real text; "at equal
CPU time" gives MLM the steps that a decoder costs.
  python -m mdx.main --config=configs/claims/drbert.py --workdir=runs/claims/drbert
  python -m mdx.main --config=configs/claims/drbert.py:text --workdir=runs/claims/drbert_text

Not measured yet.
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar" or "text"."""
  masked = dict(mask_rate=0.15, mask_draw="exact_count")
  run = common.encoder(common.data_of(arg, "drbert"), objective=dict(
      name="decoded_mlm", decoder_layers=2, decoder_rate=1.0, **masked))
  arm = lambda decoder, **fields: dict(objective=dict(decoder=decoder, **fields))
  arms = dict(mlm=dict(objective=dict(name="mlm", **masked)), plain=arm("plain"), emd=arm("emd"),
              gua=arm("gua"), mixed=arm("gua", decoder_rate=0.5))
  pairs = (("plain", "mlm"), ("emd", "mlm"), ("gua", "mlm"), ("mixed", "mlm"))
  return common.claim("a decoder that only training uses makes a better encoder", run, arms,
                      common.compared(pairs))
