r"""Claim: a connector tells a frozen masked diffusion model what a frozen encoder sees.

The recipe of LLaDA-V (arXiv:2505.16933) on drawn scenes of one object (configs/llava.py): the
connector alone, connector and LoRA of the language model, and these with images of other scenes
and without objects. Accuracy of each kind of word on held-out combinations of colour and shape, in
arm `seen` on new images of those of training, decoded in four calls. A guess has 0.25.
  python -m mdx.main --config=configs/claims/connectors.py --workdir=runs/claims/connectors

Measured on one busy core of an AMD EPYC, three seeds, 20 to 40 seconds a run; mean and deviation
over the seeds, p of the paired t test corrected by Holm:
               connector       lora            seen            other           blank
  colour       0.777 +- 0.060  0.975 +- 0.043  0.998 +- 0.003  0.242 +- 0.020  0.242 +- 0.020
  shape        0.042 +- 0.003  0.012 +- 0.020  0.640 +- 0.066  0.260 +- 0.015  0.260 +- 0.015
  place        0.328 +- 0.085  0.847 +- 0.174  0.858 +- 0.151  0.253 +- 0.023  0.253 +- 0.023
The connector alone reads colours (p = 0.035 against both controls), places not at this length of
training (p = 1.0); with LoRA it reads both, which three seeds do not settle (p = 0.17, 0.11).
Shapes of held-out combinations are read worse than guessed (p = 0.013), and those of trained ones
are not (`seen` against `lora`: p = 0.022): a colour tells which shape it never had in training, and
what learns this is always wrong. A ridge classifier of the pixels of a quarter does the same (0.90
of the training shapes, 0.000 of the held-out ones).
"""

from mdx.configs import llava
from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/connectors.py takes no argument, got {arg!r}.")
  run = llava.get_config()
  base, encoder = run.init.base, run.frozen.encoder.base
  for config in (run, base, encoder):
    config.update(log_steps=200, checkpoint_steps=10_000, eval_steps=0)
    config.data.source.update(most=1, noise=8.0, num_validation=200)
    config.eval.update(final_samples=1)
  for config in (run, base):
    config.data.length = 5
    config.network.update(num_layers=2, width=48, mlp_width=96)
  encoder.network.update(num_layers=2, width=48, mlp_width=96)
  run.steps, base.steps, encoder.steps = 500, 300, 500
  encoder.update(batch_size=32)
  run.eval.rules = dict(confidence=dict(steps=(4,)))
  lora = dict(rank=8)
  arms = dict(connector=dict(), lora=dict(lora=lora),
              seen=dict(lora=lora, data=dict(source=dict(held_out=False))),
              other=dict(lora=lora, data=dict(source=dict(shown="other"))),
              blank=dict(lora=lora, data=dict(source=dict(shown="blank"))))
  kinds = ("colour", "shape", "place")
  name = lambda kind: f"{kind}_accuracy_confidence_4"
  claim = common.claim(
      "a connector tells a frozen masked diffusion model what a frozen encoder sees", run, arms,
      tuple(dict(name=f"{left} beats {right}, {kind}", left=left, right=right, measure=name(kind))
            for left, right in (("connector", "other"), ("connector", "blank"),
                                ("lora", "connector"), ("seen", "lora")) for kind in kinds))
  claim.measures = (*map(name, kinds), "word_accuracy_confidence_4", "nats_per_token", "seconds")
  return claim
