"""A hook of mkdocs: formulas become MathML when the site is built.

Contents: on_page_content.

Browsers draw MathML themselves, so that pages need no script and no network. The font is one of
docs/assets/fonts. A formula that is wider than the page scrolls.
"""

import html
import re

from latex2mathml import converter

_FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def _mathml(match: re.Match) -> str:
  formula = html.unescape(match[2].strip())[2:-2]  # without \( \) or \[ \]
  if match[1] == "span":
    return converter.convert(formula, display="inline")
  return f'<div class="formula">{converter.convert(formula, display="block")}</div>'


def on_page_content(content: str, **unused) -> str:
  """Replaces what pymdownx.arithmatex marked."""
  del unused
  return _FORMULA.sub(_mathml, content)
