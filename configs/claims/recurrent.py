r"""Claim: memory slots between windows give a pretrained decoder more context at little cost.

arXiv:2008.07027: a causal model that reads windows of 64 tokens is fine-tuned on rows of 512 with a
memory slot between them, or without (`disjoint`), or on whole rows (`full`); from the same weights,
in as many updates. Nats per token, of all tokens and of those behind the first window, also against
windows of the disjoint arm that overlap by half, which cost twice as much.
  python -m mdx.main --config=configs/claims/recurrent.py --workdir=runs/claims/recurrent

Measured on one core of an AMD EPYC (shared with two other claims; 11 minutes), seeds 0-2;
two-sided paired t over the seeds, p by Holm; spreads over seeds are 0.013 to 0.016 nats:
  reproduced: recurrent beats disjoint windows: 3.6232 against 3.6294 nats, difference
    -0.0062 +- 0.0005, p = 0.010; behind the first window -0.0067 +- 0.0006, p = 0.010
  inconclusive: recurrent beats overlapping windows: perplexity 37.46 against 37.41, p = 0.43
  not reproduced: full beats recurrent: 3.6426 against 3.6232, p = 0.020
So memory is worth as much as overlap, at 1.5 % more FLOPs than disjoint windows; overlap costs
twice as many. After 200 updates rows of 512 tokens are behind windows of 64: so small a model,
whose base read rows of 64, does not learn to use them in that time. Temporaries: 2.3 MB of
windows, 40 MB of whole rows.
"""

from mdx.configs import recurrent
from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/recurrent.py takes no argument, got {arg!r}.")
  run = recurrent.get_config()
  run.update(steps=200, eval_steps=0, checkpoint_steps=10_000, log_steps=100)
  run.network.update(num_layers=2, width=64, num_heads=2, mlp_width=192)
  run.init.base.update(steps=500, batch_size=32, eval_steps=0, checkpoint_steps=10_000,
                       log_steps=250)
  less = lambda name, left, right, measure, right_measure="": dict(
      name=f"{left} beats {name}", left=left, right=right, measure=measure,
      right_measure=right_measure, larger_is_better=False)
  claim = common.claim(
      "memory between windows lowers the perplexity of long texts", run,
      dict(recurrent={}, disjoint=dict(objective=dict(num_slots=0)),
           full=dict(objective=dict(num_slots=0, window=512))),
      (less("disjoint windows", "recurrent", "disjoint", "nats_per_token"),
       less("disjoint windows, behind the first", "recurrent", "disjoint", "later_nats_own"),
       less("overlapping windows", "recurrent", "disjoint", "perplexity_own",
            "perplexity_overlapping"),
       less("recurrent", "full", "recurrent", "nats_per_token")))
  claim.measures = ("nats_per_token", "perplexity_own", "later_nats_own", "perplexity_disjoint",
                    "perplexity_overlapping", "flops_own", "flops_overlapping", "temporaries_own",
                    "seconds")
  return claim
