"""The parts of `mdx.serve`: bodies of requests, and the queue of rows to decode."""
