r"""Recurrence for a pretrained decoder: windows with memory slots, on the packaged books.

arXiv:2008.07027. A causal model of rows of 64 tokens is trained first; then it reads rows of
512 tokens in windows of 64, and learns, through all of them, to write what it has read into a
memory slot. Perplexity, FLOPs and temporaries are compared with windows that know nothing of each
other, and with overlapping ones:
  python -m mdx.main --config=configs/recurrent.py --workdir=runs/recurrent
`:disjoint`: the same training without memory; `:full`: one window of the whole row.
"""

from mdx import config as config_lib
from mdx.configs import ar
from mdx.configs import common


def get_config(arg=None):
  """With one slot, or "disjoint" or "full"."""
  variant, _ = config_lib.parse_variant(arg, ("disjoint", "full"))
  config = common.get_config()
  config.update(steps=400, batch_size=8, eval_steps=100, checkpoint_steps=200)
  config.objective = dict(
      name="recurrent",
      window=512 if variant == "full" else 64,  # tokens that are read at a time
      num_slots=0 if variant else 1,  # memory slots before a window; 0: none
      layer=-1,  # block whose states are pooled into the memory, counted from the top
      hidden=0)  # width of the MLP that makes the slots; 0: that of the embeddings
  config.optimizer.learning_rate = 5e-4
  config.data.update(
      length=512,  # tokens of a row, through whose windows the gradient passes
      isolate_documents=False)
  config.eval.update(evaluators=("contexts",), num_samples=1, final_samples=1, baselines=False)
  config.sampler.num_samples = 0
  config.init.base = ar.get_config()
  config.init.base.network = config.network
  config.init.base.eval.update(num_samples=1, final_samples=1, baselines=False)
  config.init.base.sampler.num_samples = 0
  return config
