"""Data on the host: tokenizers, sources, packing and the Grain pipeline.

Contents: `tokenizer` (text <-> ids) and its `codecs`, `sources` (text, jsonl, parquet,
array_record, tfds, memory) and their `readers`, `pack` (documents -> rows), `pipeline`
(rows -> batches).

Convention: the pipeline tokenizes, packs and pads; it never corrupts. Corruption
happens on the device, in the objective.
"""
