"""A hook of mkdocs: the keys of all configs, explained, when the site is built.

Contents: on_page_markdown.

The page reference/config_keys.md has a line for each config, which the table of its keys replaces.
"""

import importlib
import pathlib
import re

from mdx import config as config_lib
from mdx import configs
from mdx.build import explain

_LINE = re.compile(r"^<!-- keys of configs/(\w+)\.py -->$", re.M)


def _keys(name: str) -> list[explain.Key]:
  config = importlib.import_module(f"mdx.configs.{name}").get_config()
  return explain.of_config(config_lib.to_dict(config),
                           pathlib.Path(configs.__path__[0]) / f"{name}.py")


def _table(match: re.Match) -> str:
  """All keys of the common config; of others those that it (or mdpo) has not or says otherwise."""
  keys = _keys(match[1])
  if match[1] != "common":
    known = {(key.name, key.about) for key in _keys("common")}
    if match[1] != "mdpo" and any(key.name.startswith("rollout.") for key in keys):
      known |= {(key.name, key.about) for key in _keys("mdpo")}
    keys = [key for key in keys if (key.name, key.about) not in known]
  return explain.page(keys)


def on_page_markdown(markdown: str, **unused) -> str:
  """Replaces the lines that name a config."""
  del unused
  return _LINE.sub(_table, markdown)
