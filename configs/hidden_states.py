r"""Hidden states that move while a causal model reads: hidden-state optimisation.

arXiv:2112.08653. A causal model of the packaged books is trained; then its held-out text, and
spoken requests, which are unlike it, are read in windows. After each window all states so far take
a step of Adam down the gradient of its loss. Nats per token of both texts, at several rates:
  python -m mdx.main --config=configs/hidden_states.py --workdir=runs/hidden_states
Of a model that is there: --config.mode=eval --config.init.checkpoint=runs/ar.
"""

from mdx.configs import ar


def get_config(arg=None):
  """An autoregressive model, with the evaluator `moving_states`."""
  config = ar.get_config(arg)
  config.data.update(length=256, isolate_documents=False)
  config.update(batch_size=16)
  config.eval.update(evaluators=("moving_states",), num_samples=1, final_samples=1)
  config.eval.moving = dict(
      window=32,  # tokens that are read before the states move
      rates=(0.01, 0.03, 0.1, 0.3),  # of the steps; 0 is read beside them
      num_rows=128,  # rows of each text; 0 = all
      other=dict(name="text", path="asset:snips.txt.xz", holdout_every=10))  # a source
  config.sampler.num_samples = 0
  return config
