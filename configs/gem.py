r"""Embeddings of a causal model that goes on writing text: GEM (arXiv:2506.04344).

Special tokens are put into some texts, and what follows them reads the text before through them
alone; their states are the embedding. First the loss of next tokens, then InfoNCE of two views
of a text. Without a checkpoint it trains the causal model of configs/ar.py on the packaged requests
under `workdir/base` (2 minutes on 2 cores):
  python -m mdx.main --config=configs/gem.py --workdir=runs/gem
Yours (the paper's rates: 1e-4 for next tokens, 1e-5 for the contrast):
  python -m mdx.main --config=configs/gem.py --workdir=runs/mine \
    --config.init.checkpoint=Llama-3.2-1B --config.data.source.path=texts.txt \
    --config.optimizer.learning_rate=1e-5
Attention is opened instead, with a loss of masked tokens, by configs/adapt.py.
"""

from mdx.configs import ar
from mdx.configs import common
from mdx.configs import mirror


def _base():
  """The causal model that a run without a checkpoint starts from."""
  config = ar.get_config()
  config.batch_size = 32
  common.read_requests(config)
  config.sampler.num_samples = 0
  return config


def get_config(arg=None):
  """Next-token prediction with special tokens, then contrast."""
  config = common.get_config(arg)
  config.update(steps=200, batch_size=32, ema_decay=0.0, log_steps=20, eval_steps=50,
                checkpoint_steps=100)
  config.objective = dict(
      name="gem",
      num_special=1,  # special tokens of a row; the embedding is the mean of their states
      layout="split",  # they are put at a random place of a text; copy: between a text and its copy
      has_bottleneck=True,  # whether what follows them cannot see what is before them
      raw_rate=0.8,  # share of the rows that are plain texts
      mask_rate=0.2,  # share of the tokens that are masked in the second view
      contrast_start=100,  # steps of next-token prediction alone
      contrast_share=1.0,  # share of the contrast in the loss from then on
      temperature=0.05, learns_temperature=True,  # the first temperature, and whether it is trained
      is_symmetric=True, distance="cosine", dims=())  # as in configs/mirror.py
  common.read_requests(config)
  config.init.base = _base()  # config of the training of the model, without a checkpoint
  config.init.network = True  # take network and tokenizer of the checkpoint, also of a run's
  config.optimizer.update(learning_rate=5e-4, schedule="cosine", warmup_steps=10,
                          weight_decay=0.01, b2=0.999)
  config.eval.update(mirror.get_config().eval)
  config.sampler.num_samples = 0
  return config
