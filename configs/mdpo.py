r"""MDPO: a masked diffusion model improved by RL, from nothing to a table.

  python -m mdx.main --config=configs/mdpo.py --workdir=runs/mdpo
"""

import dataclasses

from ml_collections import config_dict

from mdx import tasks
from mdx.configs import common
from mdx.samplers import decoder


def get_config(arg=None):
  """4x4 Sudoku with 2 to 4 givens."""
  del arg
  task = dict(name="sudoku", size=4, min_givens=2, max_givens=4, unique=False)
  built = tasks.build(task)
  base = common.get_config()
  base.update(steps=800, batch_size=128, ema_decay=0.99, log_steps=100, eval_steps=400,
              checkpoint_steps=400)
  base.objective = dict(name="diffusion", schedule=dict(name="linear", eps=1e-4), time="lattice",
                        mask_draw="exact_count")
  base.network = dict(name="transformer", num_layers=3, width=96, num_heads=4, mlp_width=256,
                      max_length=64, scan_layers=False, init_std=0.5)
  base.optimizer.update(learning_rate=2e-3, warmup_steps=50, weight_decay=0.01)
  base.tokenizer.path = "symbols:" + " ".join(built.symbols)
  base.data = dict(length=built.prompt_length + built.answer_length, packing="pad", fill="eos",
                   append_eos=False, source=dict(name="task", task=task))
  base.eval.update(baselines=False, final_samples=8)
  base.sampler.num_samples = 0
  sampler = {f.name: f.default for f in dataclasses.fields(decoder.Decoder)
             if f.name not in ("mask_id", "eos_id", "noise", "top_k", "top_p")}
  return config_dict.ConfigDict(dict(
      mode="rl",
      seed=0,
      updates=100,
      microbatches=1,
      dtype="",
      ema_decay=0.0,
      task=task,
      init=dict(checkpoint="", params="ema", base=base),
      objective=dict(name="mdpo", num_steps=2, kl=0.02, clip=0.2),
      rollout=dict(
          num_prompts=32, group_size=8, epochs=1, max_prompt_length=0,
          filter="none", filter_examples=0,
          sampler=dict(sampler, name="confidence", steps=4, temperature=1.0,
                       gen_length=built.answer_length)),
      optimizer=dict(name="adamw", learning_rate=2e-4, schedule="constant", warmup_steps=5,
                     final_rate=1.0, weight_decay=0.0, b1=0.9, b2=0.999, clip_norm=1.0),
      mesh=dict(base.mesh),
      eval=dict(nfe=(2, 4, 8, 16), remasking=("low_confidence", "rcr"), num_examples=1024,
                batch_size=512, block_length=0, curve_nfe=4),
      log_steps=10,
      eval_steps=25,
      checkpoint_steps=50,
      checkpoint=dict(keep=2),
      tensorboard=False,
  ))
