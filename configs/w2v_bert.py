r"""Masked speech modelling (w2v-BERT; Chung et al. 2021, arXiv:2108.06209) on packaged digits.

  python -m mdx.main --config=configs/w2v_bert.py --workdir=runs/w2v_bert
`:wav2vec2` has the contrast alone, `:hubert` predicts fixed clusters of frames. Your recordings,
wav or flac files in a folder:
  python -m mdx.main --config=configs/w2v_bert.py --workdir=runs/speech \
    --config.data.source.name=speech --config.data.source.path=FOLDER --config.data.length=1600
or made into arrays first (python -m mdx.data.prepare speech). The model as published: 24 conformer
layers of width 1024 with 8 heads, `context_layers` 12, 1024 codes, strides (2, 2), 80 channels.
"""

from mdx import config as config_lib
from mdx.configs import common

_VARIANTS = {
    "wav2vec2": dict(context_layers=0),
    "hubert": dict(context_layers=0, clusters="asset:digits_centres32.npy", contrast_scale=0.0),
}


def digits(config, channels=24):
  """The data of a config become the packaged digits, one a row."""
  config.tokenizer.path = "symbols:e f g h i n o r s t u v w x z"
  config.data = dict(
      length=132,  # frames a row
      channels=channels,  # of a frame
      layout="speech",  # frames with transcripts
      transcript_length=0,  # tokens of the longest transcript; 0: none is read
      packing="pad",  # or crop
      source=dict(  # fields of data.sources; "" and -1 leave a field at its default
          name="arrays", path="asset:digits.npz", validation_path="", holdout_every=10),
      on_error="stop", append_eos=False, num_shards=1)
  config.eval.update(num_samples=1, final_samples=1, baselines=False)
  config.sampler.num_samples = 0


def get_config(arg=None):
  """w2v-BERT, or the contrast or the prediction alone."""
  variant, _ = config_lib.parse_variant(arg, _VARIANTS)
  config = common.get_config()
  config.update(steps=600, batch_size=32)
  digits(config)
  config.network.update(width=64, num_heads=2, mlp_width=128, norm="layer", mlp="swish",
                        head="none", conv_kernel=5)  # conv_kernel: of conformer blocks; 0: none
  config.objective = dict(
      name="w2v_bert",
      frontend=dict(
          channels=16,  # maps of each convolution
          strides=(2, 1)),  # of the convolutions over time; published (2, 2)
      context_layers=2,  # layers below the contrast; 0: all, and no code is predicted
      codes=dict(
          num_codes=64, code_width=64, groups=1,  # codes of a group, entries of a code
          temperature=2.0, final_temperature=0.5, decay=0.995),  # of the Gumbel noise; decay a step
      clusters="",  # .npy of python -m mdx.data.prepare frame_clusters, predicted instead of codes
      mask_rate=0.065, span=10,  # probability that a state begins a span, and its states
      noise_std=0.1,  # spread of the vectors that stand for masked features
      num_distractors=100, contrast_temperature=0.1,
      contrast_scale=1.0, diversity_scale=0.1, prediction_scale=1.0,  # factors of the terms
      # Masks that a frozen model guides: dict(scorer=NAME of config.frozen, temperature=0.1,
      # reverse=False, weighted=False); {}: random ones.
      ask=dict())
  config.objective.update(_VARIANTS.get(variant, {}))
  return config
