r"""Claim: a joint head keeps the joint distribution at several tokens a network call.

ADJUST (Bansal & Sanghavi 2025, arXiv:2509.22738), on small models of 0.11M parameters and a
head of one block. `tilted`: 8 symbols of the known distribution of benchmarks/samplers.py;
KL(samples || law) at 2 and 4 tokens a call, against decoding in the order of the entropy and in a
random one at as many network calls. `text`: 32 tokens of the packaged text; nats per token of the
samples under the model that fills one position a call, the likelihood that the head is to keep.
  python -m mdx.main --config=configs/claims/joint.py --workdir=runs/claims/joint
It has not been run: nothing is measured over seeds, and nothing at all on text. One run of
configs/joint.py:tilted (seed 0, 6000 steps of the model, 3000 of the head with batches of 128,
10,000 samples a rule; one core of an AMD EPYC under heavy load), KL less that of exact samples:
  joint: 0.401 with 8 calls a row, 0.472 with 4, 0.547 with 2
  confidence by entropy: 0.401 with 8, 1.320 with 4, 2.074 with 2
  random: 0.643 with 4, 1.080 with 2
The chain alone is 0.567 from the law, so the model had learned a third of the tilt, in which every
symbol depends on every other; at 2 tokens a call the head keeps half of that, at 4 an eighth. An
earlier model, of 1500 steps at a rate of 1e-3, had learned none of it, and its head lost nothing.
"""

from ml_collections import config_dict

from mdx.configs import joint
from mdx.configs.claims import common
from mdx.data.toys import tilted


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/joint.py takes no argument, got {arg!r}.")
  small = common.get_config()
  run = joint.get_config()
  base = run.init.base
  for one in (run, base):
    one.update(steps=1000, batch_size=64, eval_steps=0, checkpoint_steps=10_000)
    one.network = small.network
    one.data.length = 32
  run.eval.update(num_rows=512, final_samples=1)
  base.eval.update(final_samples=1, baselines=False)
  run.eval.rules = dict(
      joint=dict(tokens_per_call=(2, 4), confidence="entropy"),
      confidence=dict(steps=(8, 16, 32), confidence="entropy"),
      random=dict(name="confidence", steps=(8, 16), confidence="random"))
  data = dict(tokenizer=dict(path=tilted.TOKENIZER), data=dict(
      length=tilted.LENGTH, packing="pad", append_eos=False, source=dict(name="tilted")))
  arms = dict(text=dict(), tilted=dict(
      data, batch_size=128, steps=3000, init=dict(base=dict(
          data, steps=6000, batch_size=256, optimizer=dict(learning_rate=3e-3))),
      eval=dict(num_rows=10_000, rules=dict(confidence=dict(steps=(2, 4, 8)),
                                            random=dict(steps=(2, 4))))))
  comparisons = []
  for arm, measure, length in (("tilted", "kl", tilted.LENGTH), ("text", "nll", 32)):
    for number in (2, 4):
      for other in ("confidence", "random"):
        comparisons.append(dict(
            name=f"{arm}: {number} tokens a call of the head are nearer than {other}", left=arm,
            right=arm, measure=f"{measure}_joint_{number}", larger_is_better=False,
            right_measure=f"{measure}_{other}_{length // number}"))
  measures = {name for one in comparisons for name in (one["measure"], one["right_measure"])}
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="a joint head keeps the joint distribution at several tokens a network call",
      seeds=(0, 1, 2), run=run, arms=arms, grids=dict(), choose_by="",
      measures=(*sorted(measures), "kl_confidence_8", "nll_confidence_32", "nats_per_token"),
      comparisons=tuple(comparisons)))
