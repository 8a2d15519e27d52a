"""Data on the host: tokenizers, sources, packing and the Grain pipeline.

Contents: `tokenizer` (text <-> ids), `sources` (text, jsonl, parquet, array_record,
tfds, memory), `pack` (documents -> rows), `pipeline` (rows -> batches).

Convention: the pipeline tokenizes, packs and pads; it never corrupts. Corruption
happens on the device, in the objective.
"""
