r"""Search agents: RAMP, then supervised and RL training (MaskSearch, arXiv:2505.20285).

An autoregressive model asks a search in several turns and answers. It learns from masked paragraphs
(RAMP), from 64 questions that are solved for it, and by RL with DAPO's loss (arXiv:2503.14476), on
a synthetic knowledge base; held-out questions are about entities that no text of training names.
Trains all three stages from nothing (the first two kept under `workdir/base`):
  python -m mdx.main --config=configs/search_agent.py --workdir=runs/search_agent
From RAMP to RL without the solved questions, or without RAMP:
  python -m mdx.main --config=configs/search_agent.py:stages=ramp ...
  python -m mdx.main --config=configs/search_agent.py:stages=questions ...
GRPO as it was first published, in place of DAPO:
  python -m mdx.main --config=configs/search_agent.py:grpo ...
Your corpus and questions (HotpotQA's form, or {"question", "answer"} and --config.task.corpus),
your model:
  python -m mdx.main --config=configs/search_agent.py:files --workdir=runs/mine \
    --config.init.checkpoint=Qwen2.5-1.5B-Instruct --config.task.path=train.jsonl \
    --config.task.corpus=corpus.jsonl
Another search: --config.task.tool.name=tool.py, or package.module:Class (docs/methods/
search_agents.md). Its own right transcripts are exported by configs/eval.py:qa and trained on by
configs/sft.py.
"""

from mdx import config as config_lib
from mdx import tasks
from mdx.configs import common
from mdx.configs import mdpo

_STAGES = ("both", "ramp", "questions")


def get_config(arg=None):
  """The toy; of it the stages before RL, and grpo; or files, a corpus and a model of yours."""
  parsed = config_lib.parse_arg(arg, stages="both", grpo=False, files=False)
  if parsed["stages"] not in _STAGES:
    raise ValueError(f"configs/search_agent.py:stages is one of {', '.join(_STAGES)}, got "
                     f"{parsed['stages']!r}.")
  config = mdpo.get_config("causal_grpo")
  config.rollout.update(max_turns=3)
  config.eval.update(pass_k=(), curve_also=(), remasking=("left_to_right",))
  if parsed["grpo"]:
    config.objective.update(mean_over="rollouts", clip=0.2, clip_high=0.0, kl=0.0,
                            advantage="z_score")
  else:
    config.objective.update(mean_over="tokens", clip=0.2, clip_high=0.28, kl=0.0,
                            advantage="z_score")
    config.rollout.update(dynamic_sampling=True, rewards=("length_penalty",))
  if parsed["files"]:
    return _files(config)
  task = dict(name="relations", num_train=0, num_ramp=4000, min_masks=1, max_masks=3,
              last_rate=0.125, reward="penalised", format_weight=0.1, answer_weight=0.9, seed=0)
  config.task = task
  config.init.base = _base(task, parsed["stages"])
  config.update(updates=60, eval_steps=20, checkpoint_steps=30, log_steps=10)
  config.optimizer.update(learning_rate=3e-4)
  config.rollout.update(num_prompts=16, group_size=8, max_reply_length=7)
  config.rollout.sampler.gen_length = 8
  config.eval.update(nfe=(8,), curve_nfe=8, num_examples=232, batch_size=256)
  return config


def _base(task, stages):
  """Supervised training before RL; with both stages the second starts from the first."""
  solved = task | dict(num_train=64)
  if stages == "questions":
    return _supervised(solved, "questions")
  base = _supervised(task, "ramp")
  if stages == "ramp":
    return base
  second = _supervised(solved, "questions")
  second.update(steps=100, eval_steps=50, checkpoint_steps=100, log_steps=20)
  second.optimizer.update(learning_rate=5e-4, warmup_steps=10)
  second.init.base = base
  return second


def _supervised(task, stage):
  """Training on solved problems of a stage: searches and answers, not what is found."""
  built = tasks.build(task)
  base = common.get_config()
  base.update(steps=600, batch_size=64, log_steps=100, eval_steps=300, checkpoint_steps=300)
  base.objective = dict(name="ar")
  base.network = dict(name="transformer", num_layers=2, width=64, num_heads=4, mlp_width=192,
                      max_length=64, scan_layers=False, init_std=0.5)
  base.optimizer.update(learning_rate=3e-3, warmup_steps=50)
  base.tokenizer.update(path="symbols:" + " ".join(built.symbols),
                        chat_template="asset:agent.jinja")
  base.data = dict(length=64, packing="pad", fill="pad", too_long="error", on_error="stop",
                   append_eos=False, source=dict(name="trajectories", task=task, stage=stage))
  base.eval.update(baselines=False, final_samples=1, num_batches=2)
  base.sampler.num_samples = 0
  return base


def _files(config):
  """A model and files of the user."""
  config.task = dict(name="search", path="", test_path="", corpus="", count=3, max_chars=1500,
                     seconds=60.0, reward="penalised", format_weight=0.1, answer_weight=0.9,
                     tool=dict(name="bm25"))
  config.init = dict(checkpoint="", params="raw", adapter="", weights="")
  config.update(updates=200, microbatches=16, eval_steps=50, checkpoint_steps=20, remat="full")
  config.optimizer.update(learning_rate=1e-6, schedule="constant", warmup_steps=0)
  config.rollout.update(prompt_format="chat", num_prompts=16, group_size=8, max_turns=4,
                        max_reply_length=512, max_prompt_length=512, long_prompts="skip")
  config.rollout.sampler.gen_length = 256
  config.eval.update(nfe=(256,), curve_nfe=256, num_examples=256, batch_size=64)
  config.mesh.update(data=1, fsdp=-1)
  return config
