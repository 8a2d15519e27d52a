r"""Masked diffusion on the packaged text: MDLM's loss with a global lattice of times.

Trains a 0.9M-parameter transformer on 1.9 MB of Sherlock Holmes (512 byte-pair tokens), in
2 minutes on 2 cores to 2.450 +- 0.011 bits per character (bigram 3.443).
  python -m mdx.main --config=configs/diffusion.py --workdir=runs/diffusion
With times of a bell-shaped density, 2.306 +- 0.011 in as many steps (seed 0):
  python -m mdx.main --config=configs/diffusion.py:bell --workdir=runs/bell
The loss of another paper (mdlm, md4, llada, llada_sft or dream):
  python -m mdx.main --config=configs/diffusion.py:md4 --workdir=runs/md4
With a mixture of 8 experts in each block, of which a token takes 2:
  python -m mdx.main --config=configs/diffusion.py:experts --workdir=runs/experts
The size and recipe of MDLM, on your data:
  python -m mdx.main --config=configs/diffusion.py:preset=mdlm_small --workdir=runs/owt \
    --config.data.source.path='owt/*.txt' --config.tokenizer.path=gpt2/tokenizer.json
"""

from mdx import config as config_lib
from mdx import tasks
from mdx.configs import common
from mdx.data import task_rows

_PAPERS = {
    # Sahoo et al. 2024, arXiv:2406.07524
    "mdlm": dict(schedule=dict(name="linear", eps=1e-3), time="stratified",
                 mask_draw="bernoulli"),
    # Shi et al. 2024, arXiv:2406.04329; in discrete time with num_steps=1000
    "md4": dict(schedule=dict(name="cosine", eps=1e-4), time="lattice", mask_draw="bernoulli",
                normalizer="elbo"),
    # Nie et al. 2025, arXiv:2502.09992
    "llada": dict(schedule=dict(name="linear", eps=1e-3), time="independent",
                  mask_draw="bernoulli", random_length_rate=0.01),
    "llada_sft": dict(schedule=dict(name="linear", eps=1e-3), time="independent",
                      mask_draw="bernoulli", normalizer="per_row"),
    # Ye et al. 2025, arXiv:2508.15487
    "dream": dict(schedule=dict(name="linear", eps=1e-3), time="independent",
                  mask_draw="bernoulli", shift=True, weighting="cart", cart_rate=0.1,
                  normalizer="per_masked_token"),
    # Hong et al. 2026, arXiv:2605.13026
    "bell": dict(time_density=dict(
        name="bell",
        center=0.5,  # most frequent time
        spread=0.15,  # standard deviation of the times around it
        uniform=0.1,  # share of the times that are uniform
        weighted=False)),  # True: weigh by 1 / p(t), so that the loss is the bound
    "experts": {},
}


def get_config(arg=None):
  """The default, the loss of a paper, or "experts"."""
  paper, values = config_lib.parse_variant(arg, _PAPERS, preset="")
  config = common.get_config(f"preset={values['preset']}")
  config.objective = dict(
      name="diffusion",
      schedule=dict(name="linear", eps=1e-4),  # linear, cosine or polynomial (with `power`)
      time="lattice",  # independent, stratified or lattice
      num_steps=0,  # of a process in discrete time; 0 = continuous time
      mask_draw="exact_count",  # bernoulli, or exact_count with the linear schedule
      weighting="elbo",  # elbo, uniform or cart
      normalizer="per_supervised_token",  # elbo, per_supervised_token, per_masked_token, per_row
      shift=False)  # predict each place from the one before it
  config.objective.update(_PAPERS.get(paper, {}))
  if paper == "md4":
    config.network.time_conditioning = True
  if paper == "experts":
    config.network.experts = dict(
        number=8,  # experts of a block
        per_token=2,  # those of a token
        width=192,  # hidden width of one
        router="softmax",  # or sigmoid
        balance=0.01,  # weight of the balance loss
        z=0.001)  # weight of the router's z-loss
  if paper == "llada_sft":
    _answers(config)
  return config


def _answers(config):
  """Countdown puzzles as prompts, which are given, and answers, which are learned."""
  task = dict(name="countdown", num_numbers=3)
  sizes = task_rows.of_task(tasks.build(task))
  config.tokenizer.path = sizes.tokenizer
  config.data = dict(length=sizes.length, packing="pad", fill="eos",
                     append_eos=False, source=dict(name="task", task=task))
  config.eval.baselines = False
