r"""MDPO: a masked diffusion model improved by RL, from nothing to a table.

The task is 4x4 Sudoku with 2 to 4 givens: a puzzle has many solutions, and tokens that are
committed together mix them. Trains the base model once (kept under `workdir/base`), runs
MDPO, and compares both with and without RCR on 1024 held-out puzzles (which share no
givens with those of training: puzzles are divided by a hash).
  python -m mdx.main --config=configs/mdpo.py --workdir=runs/mdpo
"""

import dataclasses

from ml_collections import config_dict

from mdx import tasks
from mdx.configs import common
from mdx.samplers import decoder


def get_config(arg=None):
  """4x4 Sudoku with many solutions."""
  if arg:
    raise ValueError(f"configs/mdpo.py takes no argument, got {arg!r}.")
  task = dict(name="sudoku", size=4, min_givens=2, max_givens=4, unique=False,
              in_place=True, partial_reward=True)  # units that are complete, times givens kept; or 0 and 1
  built = tasks.build(task)
  sampler = {f.name: f.default for f in dataclasses.fields(decoder.Decoder)
             if f.name not in ("mask_id", "eos_id", "noise", "top_k", "top_p")}
  return config_dict.ConfigDict(dict(
      mode="rl",
      seed=0,
      updates=300,
      microbatches=1,  # passes that the rows of an update are cut into
      dtype="",  # of activations; "" = as the base model was trained
      ema_decay=0.0,  # of averaged weights, which are then evaluated and kept; 0 = none

      task=task,  # `name` and fields of mdx.tasks
      init=dict(
          checkpoint="",  # the base model; "" = trained from `base` under workdir/base
          params="ema", base=_base(task, built)),
      objective=dict(  # mdpo, diffu_grpo, wd1 or coupled_grpo, and its fields
          name="mdpo", num_steps=2, kl=0.02, clip=0.2),
      rollout=dict(
          num_prompts=32,  # of an iteration
          group_size=8,  # rollouts of each prompt
          epochs=1,  # updates on each rollout
          max_prompt_length=0,  # tokens; 0 = any
          filter="none",  # or over_denoising: problems right on the way and wrong at the end
          filter_examples=0,  # problems decoded to find them, 0 = all
          mixture_draw="per_group",  # of sampler.mixture: one pair a group, or per_rollout
          sampler=dict(sampler, name="confidence", steps=4, temperature=1.0,
                       gen_length=built.answer_length)),
      optimizer=dict(name="adamw", learning_rate=1.5e-4, schedule="cosine", warmup_steps=5,
                     final_rate=0.1, weight_decay=0.0, b1=0.9, b2=0.999, clip_norm=1.0),
      mesh=dict(replica=1, data=-1, fsdp=1, tensor=1, sequence=1),

      eval=dict(
          nfe=(2, 4, 8, 16),  # denoising steps of the table
          remasking=("low_confidence", "rcr"),
          num_examples=1024,  # held-out problems
          batch_size=512,
          block_length=0,  # 0 = one block
          curve_nfe=4),  # denoising steps of the learning curve, on the validation split
      log_steps=10,
      eval_steps=50,
      checkpoint_steps=50,
      checkpoint=dict(keep=2),
      tensorboard=False,
  ))


def _base(task, built):
  """Supervised training on puzzles and the grids they were drawn from."""
  base = common.get_config()
  base.update(steps=800, batch_size=128, log_steps=100, eval_steps=400, checkpoint_steps=400)
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
  return base
