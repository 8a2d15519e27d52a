r"""Claim: structural objectives prepare an encoder for answer selection with few labels.

Di Liello et al. 2022, arXiv:2205.10455: MLM with SSP (same paragraph), SP (span of the paragraph)
and PSD (same document) against MLM on the same kind of rows. A question has the three rarest words
of a sentence; one of five candidates is another span of its paragraph, the others are from other
paragraphs and documents. They are ranked by a linear probe of the frozen states, which has the
labels of 16 questions: mean average precision on held-out documents.
  python -m mdx.main --config=configs/claims/structural.py --workdir=runs/claims/structural
  python -m mdx.main --config=configs/claims/structural.py:text --workdir=runs/structural_text

Measured on 2 cores of an AMD EPYC (two claims at a time), seeds 0-2, 600 steps; mean average
precision, before training 0.465 on the grammar and 0.462 on the text; two-sided paired t over the
seeds. The grammar, 16 minutes (40 CPU seconds of steps a run), against 0.491 of MLM:
  inconclusive: ssp beats mlm at equal steps: -0.004, p = 0.30 (CPU time: -0.003, p = 0.52)
  reproduced: sp beats mlm at equal steps: 0.527, +0.036 +- 0.011, p = 0.029
  inconclusive: the same at equal CPU time: +0.030 +- 0.014, p = 0.068
  reproduced: psd beats mlm at equal steps: 0.551, +0.060 +- 0.017, p = 0.025
  reproduced: the same at equal CPU time: +0.058 +- 0.020, p = 0.038
The loss of pairs is 0.693 nats for SSP, which is chance, 0.688 for SP and 0.36 for PSD. The text,
on an Intel Xeon (nothing beside it: 16 minutes; 82 to 94 CPU seconds a run), against 0.459: ssp
0.461 (p = 0.19; CPU time 0.22), sp 0.459 (p = 0.93; 0.90), psd 0.462 (p = 0.54; 0.63), all
inconclusive: no loss of pairs leaves chance (0.690 to 0.693 nats), so that the text does not say
what they are worth.
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar" or "text"."""
  data = common.data_of(arg, "structural", ("grammar", "text"))
  run = common.encoder(data, objective=dict(
      name="structural", token=dict(name="mlm", mask_rate=0.15, mask_draw="exact_count"),
      pair_weight=1.0))
  documents = dict(name="grammar", num_documents=1500, num_validation=300, num_paragraphs=3,
                   num_sentences=4) if data == "grammar" else dict(
                       name="text", path="asset:holmes.txt.xz", document_chars=4000,
                       holdout_every=10)
  run.data.update(packing="pad", length=48 if data == "grammar" else 96)
  run.data.source = dict(name="structure", documents=documents, task="ssp")
  run.network.token_types = 2
  run.eval.probe.update(num_labels=16, pool=300)
  task = lambda name: dict(data=dict(source=dict(task=name)))
  arms = dict(mlm=dict(objective=dict(pair_weight=0.0)), ssp=task("ssp"), sp=task("sp"),
              psd=task("psd"))
  pairs = (("ssp", "mlm"), ("sp", "mlm"), ("psd", "mlm"))
  return common.claim("structural objectives prepare an encoder for answer selection", run, arms,
                      common.compared(pairs))
