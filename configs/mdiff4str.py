r"""Scene text by masked diffusion: MDiff4STR (arXiv:2512.01422), on small rendered words.

An encoder of patches, and a decoder that fills a masked text and attends to the image. Words of the
packaged books in DejaVu Sans under noise and a bar; those of the evaluation are no words of
training. Word accuracy is measured in one call, in a few, and from left to right:
  python -m mdx.main --config=configs/mdiff4str.py --workdir=runs/mdiff4str
`:plain`: without replaced tokens. report.html shows images and what becomes of their texts. On
a folder, or a .zip file, of images with labels.tsv (lines of a name, a tab and a text):
  python -m mdx.main --config=configs/mdiff4str.py:files --workdir=runs/iiit5k \
    --config.data.source.path=iiit5k.zip
"""

from mdx import config as config_lib
from mdx.configs import common

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def get_config(arg=None):
  """With replaced tokens, or "plain" without; "files" reads images of 32 x 128 pixels of yours."""
  variant, values = config_lib.parse_variant(arg, ("plain",), files=False)
  config = common.get_config()
  config.update(steps=1500, batch_size=64, eval_steps=500, checkpoint_steps=500)
  config.objective = dict(
      name="mdiff4str",
      encoder=dict(num_layers=1),  # fields of the network that the image encoder has otherwise
      strategies=("whole", "left_to_right", "right_to_left", "block", "cloze", "random"),
      num_draws=3,  # masks of an image in a step; its encoding is shared
      replaces=variant != "plain")  # as many draws more with replaced tokens
  config.network.update(num_layers=2, width=64, num_heads=4, mlp_width=128, position="learned",
                        max_length=32)
  # Of the states of the image.
  config.network.context_width = config.network.get_oneway_ref("width")
  config.tokenizer.path = "symbols:" + " ".join(_LETTERS)
  config.data = dict(
      length=9,  # letters of a text and its end
      num_patches=16, channels=64,  # patches of an image, and values of a patch
      source=dict(
          name="rendered", path="asset:holmes.txt.xz",  # whose words are rendered
          longest=8, noise=60.0, bar=5,  # letters, deviation of pixels, width of the bar
          num_validation=500,  # images
          height=16, width=64, colors=1, patch=(16, 4),  # in pixels; height and width of a patch
          shift=0, flip=False, crop=1.0),  # random changes in training: pixels, mirror, least share
      packing="pad", append_eos=True, isolate_documents=True, on_error="stop", num_shards=1)
  config.eval.update(final_samples=2, baselines=False, evaluators=("words",))
  config.eval.rules = dict(  # rules of decoding; each has one field with several values
      mean_confidence=dict(steps=(3, 1, 2, 5), eos_stop="row"),  # one step: all at once
      blocks=dict(name="mean_confidence", blockwise=True, steps=(3, 5), eos_stop="row"),
      rewriting=dict(steps=(3, 5)),
      autoregressive=dict(eos_stop=("row",)))
  config.sampler.num_samples = 0
  if values["files"]:
    config.tokenizer.path = "char"
    config.data.update(length=26, num_patches=128, channels=32)
    config.data.source = dict(
        name="images", path="", validation_path="", holdout_every=20,
        fit="resize",  # images of another size; or error, pad
        lower=True,  # texts in lower case
        height=32, width=128, colors=1, patch=(8, 4), shift=1, flip=False, crop=1.0)
  return config
