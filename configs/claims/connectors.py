r"""Claim: a connector tells a frozen masked diffusion model what a frozen encoder sees.

The recipe of LLaDA-V (arXiv:2505.16933) on drawn scenes of one object (configs/llava.py): the
connector alone, connector and LoRA of the language model, and these with images of other scenes and
without objects. Accuracy of each kind of word on held-out combinations of colour and shape, in arm
`seen` on new images of those of training, decoded in four calls. A guess has 0.25.
  python -m mdx.main --config=configs/claims/connectors.py --workdir=runs/claims/connectors

It has not been run.
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
