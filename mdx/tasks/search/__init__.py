"""Tools that search a corpus, and the text that an agent exchanges with them."""
