"""Configs: one flat file a method; `common` has what all of them share.

A config file defines `get_config(arg)`. Use it as `--config=configs/NAME.py`, with
`--config=configs/NAME.py:ARG` where it takes an argument; override one value with
`--config.KEY=VALUE`.
"""
