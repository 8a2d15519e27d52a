r"""Reports: one page of a run, or of several beside one another.

Every run ends with `report.html` in its workdir; this writes it again, or compares runs:
  python -m mdx.main --config=configs/report.py --config.workdirs=runs/mdpo
  python -m mdx.main --config=configs/report.py --workdir=runs/compared \
    --config.workdirs=runs/diffusion,runs/mlm,runs/ar
"""

from ml_collections import config_dict


def get_config(arg=None):
  """Workdirs, separated by commas; also as the argument."""
  return config_dict.ConfigDict(dict(
      mode="report",  # the only one of this config
      workdirs=arg or ""))  # runs, separated by commas; "" = that of --workdir
