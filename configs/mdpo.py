r"""MDPO: a masked diffusion model improved by RL, from nothing to a table.

By default the task is 4x4 Sudoku with 2 to 4 givens, filled in where they stand: a puzzle has many
solutions, and tokens that are committed together mix them. Trains the base model once (kept under
`workdir/base`), runs branch credit, an extension of MDPO that is not in the paper, and compares
both with and without RCR on 1024 held-out puzzles, which share no givens with those of training:
puzzles are divided by a hash.
  python -m mdx.main --config=configs/mdpo.py --workdir=runs/mdpo

MDPO as published (He et al. 2025, arXiv:2508.13148), on the same task:
  python -m mdx.main --config=configs/mdpo.py:mdpo --workdir=runs/mdpo_published

Countdown with three numbers, solved in two steps over a vocabulary of numbers:
  python -m mdx.main --config=configs/mdpo.py:countdown

Another policy gradient on the same machinery, diffu_grpo, wd1 or coupled_grpo; or, with bounds of
whole answers, espo, gdpo, spg or vrpo:
  python -m mdx.main --config=configs/mdpo.py:diffu_grpo --workdir=runs/diffu_grpo
  python -m mdx.main --config=configs/mdpo.py:countdown,wd1

An autoregressive model by GRPO, from left to right:
  python -m mdx.main --config=configs/mdpo.py:causal_grpo --workdir=runs/causal_grpo

branch_mdpo is the default on Sudoku, with sizes of its own (256 prompts x 1 rollout of 6 steps, 40
updates); mdpo is on the others.

A task of your own, a Python file (docs/howto/own_task.md): tokenizer, lengths and the steps of the
rollouts are those of its problems, which are checked before anything is trained:
  python -m mdx.main --config=configs/mdpo.py:task=sums.py --workdir=runs/sums

The recipe of the paper (He et al. 2025, arXiv:2508.13148), for a pod: LLaDA-8B-Instruct on problems
of a file with `problem` and `answer` a line:
  python -m mdx.main --config=configs/mdpo.py:llada_8b --distributed \
    --config.init.checkpoint=LLaDA-8B-Instruct --config.task.path=train.jsonl \
    --config.task.test_path=math500.jsonl
Full fine-tuning. The paper's log counts a step every 16 prompts x 8 rollouts x 8 denoising steps,
178 an epoch, and its best checkpoint is that of 150; its wrapper steps AdamW every 2 prompts x 8
rollouts x 8 steps (read, not run), about 1,420 updates at 7e-7. This is the default. The count of
the log is rollout.num_prompts=16, microbatches=16 and updates=150, an eighth of the updates at the
same rate. The block length of a problem, 32 or 512, is drawn for the over-denoising filter and kept
for its rollouts; on its list of filtered problems the paper draws 128 or 512 a rollout.

The recipes of the baselines' papers, on the same files:
  python -m mdx.main --config=configs/mdpo.py:llada_8b,diffu_grpo ...
diffu_grpo (d1): 16 prompts x 6 rollouts, 12 updates on each, temperature 0.9, LoRA of rank 128.
wd1: the same on 8 prompts (half of the GPUs). coupled_grpo (DiffuCoder's): groups of 10, 2 updates
on each, temperature 1, cosine rate, no LoRA; LLaDA, 8 prompts and one pass over 21,000 problems are
our choice. espo and spg: d1's with 8 and 4 updates on each rollout batch; prompts and number of
updates are those of diffu_grpo. trace_rl: 32 prompts x 8, a step a token, 8 steps merged.
agrpo: 16 x 8, random positions, 24 steps of each rollout, LoRA of rank 64. just_grpo: groups of 16,
125 updates; 8 prompts, and 64 positions scored of each rollout instead of all 256, are our choice.
Not as published: bfloat16 instead of 4-bit weights and no dropout of LoRA (d1, wd1), no top-k and
top-p in rollouts (AGRPO); the reference stays the base model (DiffuCoder sets it anew every 64
steps).
"""

import dataclasses

from ml_collections import config_dict

from mdx import objectives
from mdx import samplers
from mdx import tasks
from mdx.configs import common
from mdx.data import task_rows

_VARIANTS = ("sudoku", "countdown", "llada_8b")
_GIVEN = ("model", "mask_id", "eos_id", "other_eos_ids", "group_size", "temperature",
          "decoding")  # not fields


def get_config(arg=None):
  """A task, sudoku (the default), countdown, llada_8b or task=FILE; and a method, mdpo or another.

  With llada_8b and a file, the recipe of the paper on the task of the file.
  """
  words = [word for word in (arg or "").split(",") if word]
  files = [word.removeprefix("task=") for word in words if word.startswith("task=")]
  words = [word for word in words if not word.startswith("task=")]
  variants = [word for word in words if word in _VARIANTS]
  methods = [word for word in words if word in objectives.POLICIES]
  if max(len(variants), len(methods), len(files)) > 1 or (
      len(words) > len(variants) + len(methods) or files and variants not in ([], ["llada_8b"])):
    raise ValueError(f"configs/mdpo.py takes one of {', '.join(_VARIANTS)} or task=FILE.py, and "
                     f"one of {', '.join(objectives.POLICIES)} after a comma; got {arg!r}.")
  method = methods[0] if methods else "mdpo" if variants or files else "branch_mdpo"
  if variants == ["llada_8b"]:
    config, sizes = _llada_8b(method), (_PUBLISHED,)
    if files:
      config.task = dict(name=files[0])
  elif files:
    config, sizes = _own(files[0]), (_SIZES,)
  elif variants == ["countdown"]:
    config, sizes = _countdown(), (_SIZES,)
  else:
    config, sizes = _sudoku(), (_SIZES, _ON_SUDOKU)
  if method != "mdpo":
    config.objective = dict(name=method) | {
        f.name: f.default for f in dataclasses.fields(objectives.POLICIES[method])
        if f.init and f.name not in _GIVEN}
  if "diffusion" not in objectives.POLICIES[method].of_models:
    _read_forward(config)
  for table in sizes:
    for key, values in table.get(method, {}).items():
      _table(config, key).update(values)
  return config


# Sizes of methods; fields of tables by their keys.
_SIZES = {
    "branch_mdpo": {
        # Few updates at a high rate, which the exact divergence and the lower noise allow.
        "": dict(updates=40, eval_steps=10, checkpoint_steps=10),
        "optimizer": dict(learning_rate=8e-4, warmup_steps=2),
        # Prompts in place of groups: a canvas is its own baseline.
        "rollout": dict(num_prompts=256, group_size=1)},
    "trace_rl": {
        "objective": dict(shrink=2),
        "rollout": dict(pass_rate=(0.2, 0.8)),
        "rollout.sampler": dict(steps=6)},
    "d2": {
        "objective": dict(num_segments=3),
        "rollout.sampler": dict(steps=6)},
    "agrpo": {
        "objective": dict(num_steps=2),
        "rollout.sampler": dict(confidence="random", steps=6)},
    "cj_grpo": {
        "rollout.sampler": dict(schedule="doubling", steps=4)},
    "just_grpo": {
        "objective": dict(num_positions=4),
        "rollout.sampler": dict(name="autoregressive")},
    "action_grpo": {  # of a decoding rule, see configs/unmasking.py
        "rollout.sampler": dict(name="unmasking", temperature=0.0, speed_range=(0.0, 10.0)),
        "optimizer": dict(trainable="unmasking/.*"),
        "eval": dict(pass_k=(), rules=dict(
            unmasking=dict(speed_alpha=(0.0, 0.3, 1.0, 3.0, 10.0)),
            confidence=dict(steps=(2, 4, 8))))}}
_ON_SUDOKU = {
    "branch_mdpo": {
        # With a divergence of 0.2 more are right in 2 to 6 steps, and fewer in 16.
        "objective": dict(kl=0.25),
        "rollout.sampler": dict(steps=6)}}


def _table(config, key):
  """The table of a config under a dotted key; "" = the config."""
  for part in key.split(".") if key else ():
    config = config[part]
  return config


def _sudoku():
  """4x4 Sudoku with many solutions, filled in where it stands."""
  config = _small(dict(name="sudoku", size=4, min_givens=2, max_givens=4, unique=False,
                       in_place=True))
  # 4, 8 and 16 steps fit the rows of the grid; 3 and 6 do not, and over-denoise most.
  config.eval.update(nfe=(2, 3, 4, 6, 8, 16), curve_nfe=6, curve_also=(2,))
  return config


def _read_forward(config):
  """Changes a config to an autoregressive model, whose answers follow their prompts."""
  if not config.init.get("base"):
    return
  base, sampler = config.init.base, config.rollout.sampler
  base.objective = dict(name="ar")
  if config.task.get("in_place"):
    config.task.in_place = False
    sizes = task_rows.of_task(tasks.build(config.task))
    base.tokenizer.path = sizes.tokenizer
    base.data.length = sizes.length
    base.data.source.task = config.task.to_dict()
    sampler.gen_length = sizes.answer_length
  sampler.name = "autoregressive"
  config.eval.update(nfe=(sampler.gen_length,), curve_nfe=sampler.gen_length, curve_also=(),
                     remasking=("left_to_right",))


def _small(task, sizes=None):
  """The common part of the tasks that train a base model of their own; `sizes` of its rows."""
  sizes = sizes or task_rows.of_task(tasks.build(task))
  sampler = {k: v for k, v in samplers.defaults().items() if k not in ("top_k", "top_p")}
  return config_dict.ConfigDict(dict(
      mode="rl",  # or compile, report or export
      seed=0,
      updates=300,  # 0 = evaluate the base model only
      microbatches=1,  # passes that the rows of an update are cut into
      dtype="",  # of activations; "" = as the base model was trained
      remat="",  # of an update: none, dots, attention or full; "" = as the base model
      ema_decay=0.0,  # of averaged weights, which are then evaluated and kept; 0 = none

      task=task,  # `name` and fields of mdx.tasks
      init=dict(
          checkpoint="",  # the base model; "" = trained from `base` under workdir/base
          params="ema",  # which weights of it: ema or raw
          adapter="", weights="",  # a PEFT adapter to go on with; int8 where adapters are trained
          base=_base(task, sizes)),  # config of the training of the base model
      lora=dict(  # new adapters, which alone are trained if nothing else is said; rank 0 = none
          rank=0, alpha=0.0,  # of adapters; their factor is alpha / rank, 0 = rank
          targets=("q", "k", "v", "o", "gate", "up", "down")),
      adaptations=(),  # further ones, dict(name=..., **fields) each
      objective=dict(  # a name in objectives.POLICIES, and its fields
          name="mdpo", num_steps=2, kl=0.1, clip=0.2, drop_dead=True),
      rollout=dict(
          num_prompts=32,  # of an iteration
          group_size=8,  # rollouts of each prompt
          batch_size=0,  # rows decoded together, 0 = all; it changes no rollout
          epochs=1,  # updates on each rollout
          prompt_format="text",  # or chat: the user's message in the model's chat template
          max_prompt_length=0,  # tokens; 0 = any
          long_prompts="cut",  # on the left; or skip: not trained on (evaluation cuts)
          filter="none",  # or over_denoising: problems right on the way and wrong at the end
          filter_examples=0,  # problems decoded to find them, 0 = all
          filter_once=False,  # whether those of the first epoch serve all
          # Transforms of rl.rewards, in order: identity, calibrated, length_penalty, inference.
          rewards=("identity",),
          calibration_samples=0,  # answers of the base model to a prompt that calibrate; 0 = group
          inference=dict(  # of the reward inference: Phi of a calibrated reward (InfAlign)
              transform="identity",  # or logarithm, exponential, best_of, worst_of
              exponent=10.0,  # t of exponential, sign(t) e^(t u): negative for the worst of N
              num_samples=4, kl=0.5),  # N of best_of and worst_of, and nats of their fixed point
          dynamic_sampling=False,  # replace groups whose rewards do not vary, by further decodes,
          max_refills=3,  # at most so many an iteration
          pass_rate=(),  # least and greatest share of right answers of groups trained on; () = any
          tree="none",  # or uniform: rollouts of a prompt branch at a step drawn at random
          max_turns=1,  # of an episode, where the task is an environment that replies
          max_reply_length=64,  # tokens of a reply that are read
          # A placement of weights of its own for rollouts and evaluation: they are rounded to
          # `dtype` and moved there once an iteration. Sizes over the devices of `mesh`; all 0 =
          # decode where updates are made.
          mesh=dict(
              data=0,  # rows are cut over so many; -1: those that remain
              fsdp=0,  # rows and weights; each layer is gathered in every step
              tensor=0),  # heads, MLP and vocabulary
          # Of sampler.mixture: a pair per_group, per_rollout, or per_problem, which keeps it from
          # the filter on and in every epoch.
          mixture_draw="per_group",
          sampler=dict(sampler, name="confidence", steps=3, temperature=1.0,
                       gen_length=sizes.answer_length)),
      optimizer=dict(name="adamw", learning_rate=2e-4, schedule="cosine", warmup_steps=5,
                     final_rate=0.1, weight_decay=0.0, b1=0.9, b2=0.999, clip_norm=1.0,
                     trainable="",  # pattern of the paths of the parameters trained; "" = all
                     masks=()),  # which entries move: one table, dict(name=..., **fields)
      mesh=dict(replica=1, data=-1, fsdp=1, tensor=1, sequence=1),

      eval=dict(
          nfe=(2, 4, 8, 16),  # denoising steps of the table
          remasking=("low_confidence", "rcr"),  # decoding rules of the table; or left_to_right
          num_examples=1024,  # held-out problems
          batch_size=512,  # problems decoded together
          block_length=0,  # 0 = one block
          curve_nfe=4,  # denoising steps of the learning curve, on the validation split
          # Of a policy that trains a decoding rule: rules with one field of several values each, as
          # in configs/decoding.py, in place of the table.
          rules=dict(),
          curve_also=(),  # further ones, whose accuracy the curve has beside it
          # pass@k and the most likely of k answers, drawn as in the rollouts; pass_k=() = none.
          pass_k=(1, 4, 8), pass_samples=8,
          pass_examples=256,  # the first so many problems; 0 = all
          # N of the win rates over the base model of the best and the worst of N, of answers drawn
          # as for pass@k, at the points of the learning curve too; () = none.
          win_sizes=()),
      log_steps=10,  # updates between two lines of metrics
      eval_steps=50,  # between two points of the learning curve
      checkpoint_steps=50,  # between two checkpoints
      checkpoint=dict(
          keep=2,  # the newest so many stay
          directory=""),  # where they are, also gs://bucket/run (extra gcs); "" = the workdir
      profile_steps=(),  # first,last: a trace of these updates in workdir/profile
      tensorboard=False,  # event files (extra `log`)
      wandb="",  # project of Weights & Biases (extra `wandb`)
      export=dict(format="huggingface", path="", model_type="", dtype=""),  # of mode=export
      compile=dict(  # of mode=compile
          topology="v5e:4x4",  # or v4, v5p, v6e, tpu7x; gpu:8 = devices simulated on the host
          slices=1,  # of TPUs; mesh.replica (or data) is cut over them
          price=0.0,  # of a chip for an hour, in any currency; 0 = not known
          preset="",  # of networks.presets, where init.checkpoint is not here
          vocab_size=0,  # ids, where the tokenizer is not here
          sweep=False,  # compile a table of meshes, remat policies and microbatches:
          data=(1,), tensor=(1, 2, 4), sequence=(1,),  # of a sweep: sizes; the rest is fsdp
          remat=("dots", "full"),  # of a sweep
          microbatches=()),  # of a sweep; () = as in training
  ))


def _base(task, sizes):
  """Supervised training on problems and one answer of each."""
  base = common.get_config()
  base.update(steps=1000, batch_size=128, log_steps=100, eval_steps=500, checkpoint_steps=500)
  base.objective = dict(name="diffusion", schedule=dict(name="linear", eps=1e-4), time="lattice",
                        mask_draw="exact_count")
  # Learned positions: attention by distance alone cannot tell the cells of a grid apart.
  base.network = dict(name="transformer", num_layers=3, width=96, num_heads=4, mlp_width=256,
                      max_length=max(64, sizes.length), scan_layers=False, init_std=0.5,
                      position="learned")
  base.optimizer.update(learning_rate=2e-3, warmup_steps=50, weight_decay=0.01)
  base.tokenizer.path = sizes.tokenizer
  base.data = dict(length=sizes.length, packing="pad", fill="eos",
                   append_eos=False, source=dict(name="task", task=task))
  base.eval.update(baselines=False, final_samples=8)
  base.sampler.num_samples = 0
  return base


def _own(path):
  """A task of a file: as Countdown where an answer follows its prompt, else as Sudoku.

  A rollout has a step every three tokens of an answer, at least 2 and at most 8; the columns of
  the table are powers of two up to a token a step.
  """
  task = dict(name=path)
  built = tasks.build(task)
  sizes = task_rows.measured(built)
  config = _small(task, sizes)
  if not built.blank:
    config.objective.update(targets="committed", kl=0.04)
  config.rollout.sampler.steps = min(max(2, sizes.answer_length // 3), 8, sizes.answer_length)
  nfe = tuple(n for n in (2, 4, 8, 16) if n <= sizes.answer_length) or (1,)
  config.eval.update(nfe=nfe, curve_nfe=min(4, nfe[-1]))
  return config


def _countdown():
  """Three numbers of 1 to 20, two steps: with smaller numbers too few problems are held out."""
  config = _small(dict(name="countdown", num_numbers=3, min_number=1, max_number=20))
  # Steps of 11 tokens draw most of them far too early: as targets they are noise. With all masked
  # tokens as targets MDPO ended below its base at 8 and 16 steps.
  config.objective.update(targets="committed", kl=0.04)
  config.rollout.sampler.steps = 4
  config.optimizer.learning_rate = 3e-4
  config.init.base.update(steps=3000, log_steps=300, eval_steps=1500, checkpoint_steps=1000)
  config.init.base.network.update(width=128, mlp_width=384)
  return config


# Published settings beside those of `_llada_8b`, by method; fields of nested tables by their keys.
_D1 = {
    "rollout": dict(group_size=6, epochs=12, max_prompt_length=200),
    "rollout.sampler": dict(gen_length=256, steps=128, block_length=32, temperature=0.9),
    "optimizer": dict(learning_rate=3e-6, warmup_steps=1, weight_decay=0.1, b2=0.99,
                      clip_norm=0.2),
    "lora": dict(rank=128, alpha=64.0)}
_PUBLISHED = {
    "mdpo": {
        "": dict(updates=1420, microbatches=2, eval_steps=100, checkpoint_steps=20),
        "objective": dict(num_steps=8, kl=0.02, drop_dead=False),
        "rollout": dict(num_prompts=2, group_size=8, max_prompt_length=320,
                        filter="over_denoising", filter_examples=40000,
                        mixture_draw="per_problem"),
        "rollout.sampler": dict(gen_length=512, steps=128, temperature=0.4,
                                confidence_filtered=True, mixture=((32, 128), (512, 128))),
        "optimizer": dict(learning_rate=7e-7)},
    "diffu_grpo": _D1 | {
        "": dict(updates=6600, microbatches=2, eval_steps=600, checkpoint_steps=120),
        "rollout": _D1["rollout"] | dict(num_prompts=16)},
    "wd1": _D1 | {
        "": dict(updates=7500, microbatches=1, eval_steps=600, checkpoint_steps=120),
        "rollout": _D1["rollout"] | dict(num_prompts=8)},
    "espo": _D1 | {
        "": dict(updates=6600, microbatches=2, eval_steps=600, checkpoint_steps=120),
        "objective": dict(kl=1e-3),
        "rollout": _D1["rollout"] | dict(num_prompts=16, epochs=8)},
    "spg": _D1 | {
        "": dict(updates=6600, microbatches=2, eval_steps=600, checkpoint_steps=120),
        "rollout": _D1["rollout"] | dict(num_prompts=16, epochs=4)},
    "agrpo": {
        "": dict(updates=2335, microbatches=24, eval_steps=200, checkpoint_steps=50),
        "objective": dict(num_steps=24),
        "rollout": dict(num_prompts=16, group_size=8, max_prompt_length=320),
        "rollout.sampler": dict(gen_length=384, steps=128, block_length=12, temperature=0.6,
                                confidence="random"),
        "optimizer": dict(learning_rate=5e-6, schedule="cosine", warmup_steps=23, final_rate=0.0,
                          weight_decay=0.01, b2=0.99),
        "lora": dict(rank=64, alpha=64.0)},
    "trace_rl": {
        "": dict(updates=80, microbatches=312, eval_steps=20, checkpoint_steps=5),
        "objective": dict(shrink=8),
        "rollout": dict(num_prompts=32, group_size=8, max_prompt_length=320, pass_rate=(0.2, 0.8)),
        "rollout.sampler": dict(gen_length=512, steps=512, block_length=32, temperature=0.8),
        "optimizer": dict(learning_rate=1e-6)},
    "just_grpo": {
        "": dict(updates=125, microbatches=64, eval_steps=25, checkpoint_steps=5),
        "objective": dict(num_positions=64),
        "rollout": dict(num_prompts=8, group_size=16, max_prompt_length=320),
        "rollout.sampler": dict(name="autoregressive", gen_length=256),
        "optimizer": dict(learning_rate=5e-6)},
    "coupled_grpo": {
        "": dict(updates=5250, microbatches=1, eval_steps=500, checkpoint_steps=100),
        "rollout": dict(num_prompts=8, group_size=10, epochs=2, max_prompt_length=320),
        "rollout.sampler": dict(gen_length=256, steps=256, temperature=1.0),
        "optimizer": dict(learning_rate=1e-6, schedule="cosine", final_rate=0.1, weight_decay=0.1,
                          clip_norm=0.2)}}


def _llada_8b(method):
  """LLaDA-8B on problems of a file, for the recipe of a method's paper."""
  if method not in _PUBLISHED:
    raise ValueError(f"configs/mdpo.py:llada_8b has the published recipes of "
                     f"{', '.join(_PUBLISHED)}, not one of {method}; take one of these.")
  config = _sudoku()
  config.task = dict(name="math", path="", test_path="")
  config.init = dict(checkpoint="", params="raw", adapter="", weights="")
  config.rollout.prompt_format = "chat"
  config.optimizer.update(schedule="constant", warmup_steps=0)
  config.mesh.update(data=1, fsdp=-1, tensor=4)  # rollouts of an iteration: no more shards than 16
  # By the compiler a rollout of 16 rows takes 6 s so, and 12 s on `mesh`, which gathers each step.
  config.rollout.mesh.update(data=-1, tensor=4)
  config.remat = "full"
  config.compile.update(topology="v5e:8x8", preset="llada_8b", vocab_size=126464)
  config.eval.update(nfe=(64, 128, 256), num_examples=500, batch_size=64, curve_nfe=128,
                     curve_also=(), pass_k=())
  return config
