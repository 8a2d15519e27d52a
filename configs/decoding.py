r"""Accuracy against network calls, of several rules of decoding on one figure.

Each rule has one field with several values. Without arguments the small Sudoku model of
configs/mdpo.py is trained under `workdir/base`; on a run, an export or a Hugging Face directory,
with any task:
  python -m mdx.main --config=configs/decoding.py --workdir=runs/decoding \
    --config.init.checkpoint=runs/mdpo
  python -m mdx.main --config=configs/decoding.py:gsm8k,llada --workdir=runs/decoding_gsm8k \
    --config.init.checkpoint=LLaDA-8B-Instruct --config.task.test_path=test.jsonl
The arguments are those of configs/eval.py. Rules are added or taken away in a config of your own.
"""

from mdx.configs import eval as eval_config


def get_config(arg=None):
  """TASK[,PAPER] of configs/eval.py; without them, the small Sudoku model of configs/mdpo.py."""
  config = eval_config.get_config(arg)
  steps = (2, 3, 4, 6, 8, 16) if not arg else (32, 64, 128, 256)
  config.mode = "decoding"
  config.rules = dict(  # name=fields of the sampler beside `sampler`; one field has several values
      confidence=dict(steps=steps),
      rcr=dict(steps=steps),
      ancestral=dict(steps=steps),
      threshold=dict(threshold=(0.4, 0.6, 0.8, 0.9, 0.95)),
      entropy_bounded=dict(entropy_bound=(0.03, 0.1, 0.3, 1.0)),
      klass=dict(kl_threshold=(0.001, 0.01, 0.1)))
  return config
