r"""Claim: at equal forgetting, generic labels and NPO cost fewer nats of what is kept than ascent.

Generic labels of Who's Harry Potter (arXiv:2310.02238), NPO with the likelihood of what is kept
(arXiv:2404.05868), gradient ascent, and its difference with that likelihood. A model of 88k
parameters has learned the habits of 32 people (`mdx.data.toys.habits`) and forgets those of 8 in
100 steps at one rate; `oracle` was trained without them. Compared by held-out nats of what is kept,
where both arms have forgotten equally (`forgotten`: 1 less the mean probability of the answers).
  python -m mdx.main --config=configs/claims/unlearn.py --workdir=runs/claims/unlearn

Measured on 2 cores of an AMD EPYC, other work beside it (13 minutes, about 30 s a run), seeds 0-2;
paired t, two-sided. All start at probabilities of 0.94 to 0.97 and 2.24 nats (diffusion: 0.99 and
2.29). Probability of what is forgotten, and nats of what is kept, at the end:
  ascent 0.111, 4.06 +- 0.87; difference 0.132, 2.29 +- 0.02; npo 0.132, 2.27 +- 0.01;
  generic 0.0007, 2.18 +- 0.04; oracle 0.0000, 2.31 +- 0.01;
  of a diffusion model difference 0.158, 2.43 +- 0.12; generic 0.0008, 2.15 +- 0.04
Nats of what is kept, at equal forgetting:
  inconclusive: generic against ascent: 2.21 and 4.06, difference -1.85 +- 0.88, p = 0.068
  inconclusive: generic against difference: 2.22 and 2.29, -0.070 +- 0.030, p = 0.057
  inconclusive: npo against ascent: 2.29 and 3.58, -1.29 +- 1.27, p = 0.219
  inconclusive: npo against difference: 2.27 and 2.31, -0.037 +- 0.027, p = 0.139
  inconclusive: difference against ascent: 2.35 and 3.58, -1.23 +- 1.18, p = 0.214
  reproduced: generic against difference, of a diffusion model: 2.21 and 2.44, -0.230 +- 0.088,
    p = 0.046
  reproduced: generic ends within 0.05 nats of the oracle: 2.18 and 2.31, p = 0.012
All have the claimed sign in the mean. The methods of the likelihood do not end the habit of naming
peculiar things: the difference of seed 0 answers all 192 questions with one and the same, right for
28 of them by accident, where its probability stays. Generic labels alone go on to 0.001. They end
below the oracle and below where they began, for rows to keep are learned by heart in part and the
labels, read off people to keep, say again what holds of all; and the toy suits them, for every
peculiar thing has a replacement. The first form of the comparisons was at equal mean nats of what
is forgotten, which the rows that fall to e^-40 dominate; those above are of the same runs, read at
equal probability: the form was changed after the first figures were seen. There, generic over
difference had p = .016, and its twin of the diffusion model p = .054; so neither of these two is
evidence before it is run on other seeds. No p is corrected for the seven comparisons.
"""

from ml_collections import config_dict

from mdx import config as config_lib
from mdx.configs import unlearn


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/unlearn.py takes no argument, got {arg!r}.")
  causal = {name: unlearn.get_config(name) for name in unlearn.METHODS}
  noised = {name: unlearn.get_config(f"{name},diffusion") for name in ("difference", "generic")}
  run = causal["ascent"]
  run.update(eval_steps=5, log_steps=50)
  run.eval.update(evaluators=())

  def arm(config, **changes):
    whole = config_lib.to_dict(config)
    return dict(objective=whole["objective"], frozen=whole["frozen"],
                init=dict(base=dict(objective=whole["init"]["base"]["objective"]))) | changes

  arms = {name: arm(config) for name, config in causal.items()} | {
      f"{name}_diffusion": arm(config) for name, config in noised.items()} | {
          # Never trained on the texts to forget; its one step moves nothing.
          "oracle": dict(steps=1, optimizer=dict(learning_rate=1e-9),
                         init=dict(base=dict(data=dict(source=dict(part="retain")))))}
  cheaper = lambda left, right: dict(
      name=f"{left} costs fewer nats of what is kept than {right}", left=left, right=right,
      measure="retain_nats", equal="forgotten", larger_is_better=False)
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="at equal forgetting, generic labels and NPO cost less of what is kept than ascent",
      seeds=(0, 1, 2),
      run=run,
      arms=arms,
      grids=dict(),
      choose_by="",
      measures=("forget_probability", "forget_nats", "retain_nats"),
      comparisons=(
          cheaper("generic", "ascent"), cheaper("generic", "difference"), cheaper("npo", "ascent"),
          cheaper("npo", "difference"), cheaper("difference", "ascent"),
          cheaper("generic_diffusion", "difference_diffusion"),
          dict(name="generic labels end within 0.05 nats of a model that never saw the texts",
               left="generic", right="oracle", measure="retain_nats", larger_is_better=False,
               margin=0.05))))
