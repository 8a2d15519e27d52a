r"""A joint head on a frozen masked diffusion model: several tokens a network call (ADJUST).

Trains the model of configs/diffusion.py (kept under `workdir/base`), then on its last states a head
of one block that is told the tokens as they are drawn (Bansal & Sanghavi 2025, arXiv:2509.22738);
the model does not change. At the end rules of decoding are compared, the head's among them:
  python -m mdx.main --config=configs/joint.py --workdir=runs/joint
On sequences whose distribution is known, in place of text:
  python -m mdx.main --config=configs/joint.py:tilted --workdir=runs/tilted
Then decode with it, here and in configs/decoding.py and configs/eval.py:
  python -m mdx.main --config=configs/sample.py --workdir=runs/joint_samples \
    --config.init.checkpoint=runs/joint --config.sampler.name=joint \
    --config.sampler.tokens_per_call=4 --config.sampler.confidence=entropy
On a model of yours, whose objective is given as it was trained:
  python -m mdx.main --config=configs/joint.py --workdir=runs/mine \
    --config.init.checkpoint=runs/diffusion
"""

from mdx import config as config_lib
from mdx.configs import common
from mdx.configs import diffusion
from mdx.data.toys import tilted


def get_config(arg=None):
  """A head for the packaged text, or with "tilted" for sequences of a known distribution."""
  is_tilted = config_lib.parse_arg(arg, tilted=False)["tilted"]
  base = diffusion.get_config()
  if is_tilted:
    base.optimizer.learning_rate = 3e-3
    base.update(steps=6000, batch_size=256, eval_steps=1000, checkpoint_steps=1000, log_steps=500)
    base.network.update(num_layers=2, width=64, num_heads=2, mlp_width=192)
    base.tokenizer.path = tilted.TOKENIZER
    base.data = dict(length=tilted.LENGTH, packing="pad", append_eos=False,
                     source=dict(name="tilted"))
    base.eval.baselines = False
  base.sampler.num_samples = 0
  config = common.get_config()
  config.update(steps=1000, eval_steps=250, ema_decay=0.99)
  config.objective = dict(
      name="joint_head",
      max_unroll=3,  # most tokens that the head is told before the loss
      tokens="data",  # those it is told: of the data, or drawn by the head
      model=base.objective.to_dict())  # as `init.checkpoint` was trained
  for key in ("tokenizer", "network", "data"):
    config[key] = base[key]
  if is_tilted:
    config.update(steps=3000, batch_size=256, eval_steps=1000, checkpoint_steps=1000,
                  log_steps=500)
  config.init.base = base  # config of the training of the model, without a checkpoint
  config.optimizer.update(learning_rate=1e-3, weight_decay=0.0)
  config.eval.update(
      baselines=False, final_samples=4, evaluators=("rules",),
      num_rows=20_000 if is_tilted else 256,  # samples of each rule
      rules=dict(  # compared at the end: name=fields of the sampler; one field has several values
          joint=dict(tokens_per_call=(1, 2, 4) if is_tilted else (1, 2, 3, 4),
                     confidence="entropy"),
          confidence=dict(steps=(2, 4, 8) if is_tilted else (16, 32, 64), confidence="entropy"),
          random=dict(name="confidence", steps=(2, 4) if is_tilted else (16, 32),
                      confidence="random")))
  config.sampler.num_samples = 0
  return config
