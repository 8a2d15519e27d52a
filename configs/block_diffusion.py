"""Block diffusion on the packaged text: blocks of 16 tokens, one after another.

  python -m mdx.main --config=configs/block_diffusion.py --workdir=runs/block_diffusion
  python -m mdx.main --config=configs/sample.py --workdir=runs/block_samples \\
    --config.init.checkpoint=runs/block_diffusion --config.sampler.block_length=16 \\
    --config.sampler.cache=block
Arriola et al. 2025, arXiv:2503.09573. Rows are read twice, noisy and clean. The last seven keys of
the objective are what models of 2026 add (LLaDA2.x, Nemotron-Labs-Diffusion); all are off.
"""

from mdx.configs import common


def get_config(arg=None):
  """A time for every block; exact counts of masks."""
  config = common.get_config(arg)
  config.objective = dict(
      name="block_diffusion", attention=dict(name="block_causal", block_length=16),
      schedule=dict(name="linear", eps=1e-4), time="lattice", mask_draw="exact_count",
      clip=(0.0, 1.0),  # times of training, e.g. (0.3, 0.8)
      normalizer="per_supervised_token",
      clean_stream="block",  # block, or token: causal, for ar_weight
      ar_weight=0.0,  # of the autoregressive loss of the clean text
      complementary=False,  # read twice, every token masked once
      block_phases=(),  # (first step, block length) pairs, the last that of the attention
      confidence_weight=0.0,  # of the entropy at right predictions
      edit_rate=0.0,  # share of the shown tokens that are replaced
      edit_weight=1.0)  # of the loss of shown tokens, where some are replaced
  return config
