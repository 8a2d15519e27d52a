r"""Preference learning: VRPO (LLaDA 1.5, arXiv:2505.19223), and DPO (arXiv:2305.18290).

The loss raises the likelihood of a chosen answer over that of a rejected one, against the weights
that the run starts from; of a diffusion model it is a bound, of `num_draws` masks that policy and
reference share. Trains the model of configs/sft.py once (kept under `workdir/base`), then learns
from 216 packaged pairs, whose chosen answers are in capital letters:
  python -m mdx.main --config=configs/preference.py --workdir=runs/preference
An autoregressive model, whose likelihood is exact (plain DPO):
  python -m mdx.main --config=configs/preference.py:ar --workdir=runs/dpo
On yours: lines {"prompt": text or messages, "chosen": text, "rejected": text}, from a model of
yours, whose objective is given as it was trained:
  python -m mdx.main --config=configs/preference.py --workdir=runs/mine \
    --config.init.checkpoint=runs/chat --config.data.source.path=pairs.jsonl
"""

from mdx import config as config_lib
from mdx.configs import common
from mdx.configs import sft


def get_config(arg=None):
  """A diffusion model, or with "ar" an autoregressive one."""
  is_causal = config_lib.parse_arg(arg, ar=False)["ar"]
  base = sft.get_config()
  if is_causal:
    base.objective = dict(name="ar")
    base.data.update(fill="pad")
  config = common.get_config()
  config.update(steps=100, batch_size=8, log_steps=10, eval_steps=25, checkpoint_steps=50,
                ema_decay=0.0)
  config.objective = dict(name="preference", beta=0.2, num_draws=8,
                          model=base.objective.to_dict())  # as `init.checkpoint` was trained
  config.tokenizer = base.tokenizer
  config.network = base.network
  config.data = dict(
      length=96,
      source=dict(name="preferences", path="asset:preferences.jsonl", validation_path="",
                  holdout_every=4),
      packing="pad",
      buckets=(),  # lengths that batches of short rows are cut to, such as (32, 64)
      bucket_window=0,  # batches whose rows are sorted by length; another order of the data
      fill=base.data.fill,  # what follows an answer, as in the data of the model
      fill_multiple=16, too_long="error", on_error="stop", append_eos=True,
      isolate_documents=True)
  config.init.base = base  # config of the training of the model, without a checkpoint
  config.init.params = "raw"
  config.frozen = dict(reference=dict(checkpoint="init"))  # the weights the run starts from
  config.optimizer.update(learning_rate=1e-4, schedule="constant", warmup_steps=10,
                          weight_decay=0.0)
  config.eval.update(baselines=False)
  config.sampler.num_samples = 0
  return config
