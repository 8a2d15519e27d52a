r"""Masked image modelling: SimMIM (arXiv:2111.09886) on small images of shapes, drawn by numpy.

  python -m mdx.main --config=configs/mim.py --workdir=runs/mim
`:mae`: the encoder reads visible patches alone, and a light decoder the rest (arXiv:2111.06377);
`:mto`: SimMIM with recalibrated attention and losses of the mask token, our reconstruction of
arXiv:2404.08330. report.html shows images, their masks and what the model makes of them; with
--config.eval.probe.num_labels=64 a linear probe tells the eight classes. On images of
yours of 32 x 32 pixels in colour, a folder for each class, a .zip of one, or an .npz or .parquet
file (`:mae,files` likewise):
  python -m mdx.main --config=configs/mim.py:files --workdir=runs/mine \
    --config.data.source.path=folder
"""

from mdx import config as config_lib
from mdx.configs import common

_OBJECTIVES = {
    "simmim": dict(name="simmim", mask_rate=0.6, loss="l1",
                   normalised=False),  # whether each patch has mean 0 and deviation 1
    "mae": dict(name="mae", mask_rate=0.75, loss="l2", normalised=True,
                decoder_width=0.5, decoder_depth=0.5),  # shares of the encoder's
    "mto": dict(name="mto_style", mask_rate=0.6, loss="l1", normalised=False,
                recalibrate=True,  # visible patches look past masked ones in the lower layers
                reach=0.5,  # share of the layers where they do
                uniformity_scale=0.05, correlation_scale=0.05, sparsity_scale=0.05)}


def get_config(arg=None):
  """SimMIM, or "mae" or "mto"; "files" reads images of yours."""
  variant, values = config_lib.parse_variant(arg, tuple(_OBJECTIVES), files=False)
  config = common.get_config()
  config.update(steps=1000, batch_size=64)
  config.objective = _OBJECTIVES[variant or "simmim"]
  config.network.update(num_layers=3, width=64, num_heads=4, mlp_width=128, position="none",
                        head="none")
  config.tokenizer.path = "symbols:0"  # images have no text
  config.data = dict(
      length=16,  # patches of an image
      channels=16,  # values of a patch: its pixels times the colors
      source=dict(
          name="shapes",
          height=16, width=16, colors=1, patch=4,  # in pixels
          shift=1, flip=False, crop=1.0),  # random changes in training: pixels, mirror, least share
      packing="pad", append_eos=False, isolate_documents=True, on_error="stop", num_shards=1)
  config.eval.update(final_samples=2, evaluators=("reconstructions",), baselines=False)
  config.sampler.num_samples = 0
  if values["files"]:
    config.data.update(length=64, channels=48)
    config.network.max_length = 64
    config.data.source = dict(
        name="images", path="", validation_path="", holdout_every=10,
        fit="error",  # images of another size; or resize, pad
        height=32, width=32, colors=3, patch=4, shift=2, flip=True, crop=0.8)
  return config
