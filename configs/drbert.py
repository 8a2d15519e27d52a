r"""MLM with a decoder that serving leaves out (DrBERT / BPDec, arXiv:2401.15861), packaged text.

  python -m mdx.main --config=configs/drbert.py --workdir=runs/drbert
Two blocks of gradual unmasking attention, whose states are taken for half of the examples, the
encoder's for the others. `:plain`: two plain blocks, for all examples; `:emd`: the enhanced mask
decoder of DeBERTa (arXiv:2006.03654). An export is the encoder alone:
  python -m mdx.main --config=configs/drbert.py --workdir=runs/drbert \
    --config.mode=export --config.export.path=encoder
"""

from mdx import config as config_lib
from mdx.configs import mlm


def get_config(arg=None):
  """Gradual unmasking and mixed states, or a variant."""
  variant, _ = config_lib.parse_variant(arg, ("plain", "emd"))
  config = mlm.get_config()
  config.objective.update(
      name="decoded_mlm",
      decoder="gua", decoder_layers=2,  # or plain, emd
      reveal_rate=0.5,  # of gua: the masks that its first block sees
      mix="example", decoder_rate=0.5)  # or token, convex; how often the decoder's states are taken
  if variant:
    config.objective.update(decoder=variant, decoder_rate=1.0)
  return config
