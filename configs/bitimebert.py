r"""BiTimeBERT 2.0 (Wang et al. 2024, arXiv:2406.01863) on toy news of 24 months.

  python -m mdx.main --config=configs/bitimebert.py --workdir=runs/bitimebert
Masks that know dates and signals of time, dating of documents, and replaced persons. `:bitimebert1`
is the first version (arXiv:2204.13032): dates and dating alone. Own documents are .jsonl with text
and date; persons, where they are replaced, are those of a file of names:
  python -m mdx.data.prepare persons --input='news/*.jsonl' --names=names.txt \
    --tokenizer=tokenizer.json --first_date=1987-01-01 --last_date=2007-06-19 --output=persons.json
  python -m mdx.main --config=configs/bitimebert.py:dated --workdir=runs/news \
    --config.data.source.path='news/*.jsonl' --config.data.source.persons=names.txt \
    --config.data.source.first_date=1987-01-01 --config.data.source.last_date=2007-06-19 \
    --config.objective.persons=persons.json --config.tokenizer.path=tokenizer.json
"""

from mdx import config as config_lib
from mdx.configs import common


def get_config(arg=None):
  """All terms on the toy news; of the first version; or on documents of yours."""
  values = config_lib.parse_arg(arg, bitimebert1=False, dated=False)
  config = common.get_config()
  config.objective = dict(
      name="bitimebert",
      masking="etamlm",  # dates and signals whole; tamlm: dates alone; plain: as in configs/mlm.py
      mask_rate=0.15, mask_draw="exact_count",
      temporal_rate=0.3, signal_rate=0.3,  # share of the dates, and of the signals
      replace_mask_rate=0.8, replace_random_rate=0.1,
      granularity="month",  # of dating: day, week, month or year
      first_date="", last_date="",  # those of the data
      dating_weight=1.0,  # 0: no dating
      tser_weight=1.0,  # of finding replaced persons; 0: none are replaced
      tser_rate=0.5,
      tser_pool="month",  # persons of the same month, or all
      persons="asset:news_persons.json")  # a file of python -m mdx.data.prepare persons
  config.data.update(length=32, packing="crop", append_eos=True)
  config.tokenizer.path = "news"
  config.data.source = dict(name="news", num_documents=16_000, num_validation=800, num_sentences=3,
                            date_rate=0.5, seed=0)
  config.network.position = "learned"
  if values["bitimebert1"]:
    config.objective.update(masking="tamlm", tser_weight=0.0, persons="")
  if values["dated"]:
    config.data.length = 256
    config.data.source = dict(
        name="dated", path="", field="text", date_field="date", first_date="", last_date="",
        granularity=config.objective.get_ref("granularity"), persons="",
        keep="temporal",  # sentences with a date, and the first one; or all
        document_chars=1000, holdout_every=-1)
  return config
