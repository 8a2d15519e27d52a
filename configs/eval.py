r"""Evaluation on a task: every problem decoded, every generation kept with its score.

Without arguments it trains the small Sudoku model of configs/mdpo.py under `workdir/base` and
evaluates it; on a run or an export of yours, with what it was trained on:
  python -m mdx.main --config=configs/eval.py --workdir=runs/eval \
    --config.init.checkpoint=runs/mdpo --config.sampler.steps=4
pass@k, and how often the most likely of k answers is right:
  python -m mdx.main --config=configs/eval.py --config.init.checkpoint=runs/mdpo \
    --config.num_samples=16 --config.pass_k="(1, 4, 16)" --config.sampler.temperature=1.0
The task of a file of yours (docs/howto/own_task.md), with its small model or the one you give:
  python -m mdx.main --config=configs/eval.py:task=sums.py --workdir=runs/eval_sums
A chat model (LLaDA-8B-Instruct) on gsm8k, math500, countdown or sudoku, by the settings of a paper
and from a file of problems (those of countdown and sudoku can also be drawn):
  python -m mdx.main --config=configs/eval.py:gsm8k --workdir=runs/gsm8k \
    --config.init.checkpoint=LLaDA-8B-Instruct --config.task.test_path=test.jsonl \
    --config.task.path=train.jsonl
  python -m mdx.main --config=configs/eval.py:math500,d1 ...
A search agent on questions of HotpotQA's form (docs/methods/search_agents.md); split=train and
num_samples=8 write right transcripts to train on:
  python -m mdx.main --config=configs/eval.py:qa --workdir=runs/qa \
    --config.init.checkpoint=runs/agent --config.task.path=hotpot.jsonl
Papers: mdpo (the default, arXiv:2508.13148), d1 (arXiv:2504.12216), llada (arXiv:2502.09992). A run
that was cut short goes on where it stopped.
"""

from ml_collections import config_dict

from mdx import samplers
from mdx.configs import mdpo
from mdx.configs import search_agent
from mdx.tasks import problems

_TASKS = {
    "gsm8k": dict(name="gsm8k", path="", test_path=""),
    "math500": dict(name="math", path="", test_path="", time_limit=2.0),  # seconds an answer
    "countdown": dict(name="countdown", format="expression", num_numbers=3, max_number=20,
                      path="", test_path="", num_test=256),
    "sudoku": dict(name="sudoku", size=4, min_givens=4, max_givens=8, unique=True, path="",
                   test_path="", num_test=256, instruction=problems.INSTRUCTION),
}
# Tokens of an answer, denoising steps, tokens of a block. LLaDA's blocks differ by task.
_PAPERS = {
    "mdpo": dict(gen_length=512, steps=256, block_length=128),
    "d1": dict(gen_length=256, steps=128, block_length=32),
    "llada": dict(gen_length=256, steps=256, block_length=8),
}
_LLADA_MATH = dict(gen_length=512, steps=512, block_length=64)


def get_config(arg=None):
  """TASK[,PAPER], qa, or task=FILE; without them, the small Sudoku model of configs/mdpo.py."""
  is_own = (arg or "").startswith("task=")
  run = mdpo.get_config(arg if is_own else None)
  sampler = samplers.defaults() | dict(name="confidence", temperature=0.0)
  config = config_dict.ConfigDict(dict(
      mode="eval",
      seed=0,
      init=dict(
          checkpoint="",  # a run's workdir, a checkpoint, an export, a Hugging Face directory
          params="ema",  # which weights of it: ema or raw
          adapter="",  # directory of a PEFT adapter for it
          weights="",  # int8: weights of one byte
          special_tokens="",  # never: no [CLS], <s> around prompts; "" = as its tokenizer has it
          base=run.init.base),  # trained first where no checkpoint is given
      task=run.task,  # `name` and fields of mdx.tasks
      prompt_format="text",  # or chat: the user's message in the model's chat template
      system="",  # the system's message of chats
      max_prompt_length=0,  # tokens; 0 = any
      split="test",  # or validation, or train, whose right transcripts are trained on
      num_examples=0,  # the first so many problems; 0 = all
      num_samples=1,  # answers to each, drawn at sampler.temperature
      max_turns=1,  # of an episode, where the task is an environment that replies
      max_reply_length=64,  # tokens of a reply that are read
      pass_k=(),  # pass@k and the most likely of k, for these k of the num_samples answers
      batch_size=256,  # decoded together
      sampler=dict(sampler, gen_length=run.rollout.sampler.gen_length,
                   steps=max(1, run.eval.nfe[-1] // 2)),
      dtype="",  # of activations: float32 or bfloat16; "" = as in training
      mesh=dict(replica=1, data=-1, fsdp=1, tensor=1, sequence=1),
      export=dict(format="huggingface", path="", model_type="", dtype=""),  # of mode=export
  ))
  if not arg or is_own:
    return config
  if arg == "qa":
    agent = search_agent.get_config("files")
    rollout = agent.rollout
    config.init = dict(checkpoint="", params="raw", adapter="", weights="")
    config.task, config.prompt_format = agent.task, rollout.prompt_format
    config.update(max_turns=rollout.max_turns, max_reply_length=rollout.max_reply_length,
                  batch_size=32)
    config.sampler.update(name="autoregressive", gen_length=rollout.sampler.gen_length)
    config.mesh.update(data=1, fsdp=-1)
    return config
  name, _, paper = arg.partition(",")
  paper = paper or "mdpo"
  if name not in _TASKS or paper not in _PAPERS:
    raise ValueError(f"configs/eval.py takes one of {', '.join(_TASKS)}, and one of "
                     f"{', '.join(_PAPERS)} after a comma, or qa; got {arg!r}.")
  config.init = dict(checkpoint="", params="raw", adapter="", weights="")
  config.task = _TASKS[name]
  config.prompt_format = "chat"
  config.batch_size = 32
  config.sampler.update(_PAPERS[paper])
  if (name, paper) == ("math500", "llada"):
    config.sampler.update(_LLADA_MATH)
  config.mesh.update(data=1, fsdp=-1)
  return config
