"""Data on the host: tokenizers, sources, packing and the Grain pipeline.

Contents: `tokenizer` (text <-> ids) and its `codecs`, `sources` (files -> records), `layouts`
(records -> documents, and the fields of their rows), `pack` (documents -> rows), `pipeline`
(rows -> batches), `facts` (of the data, for objectives).

Convention: the pipeline tokenizes, packs and pads; it never corrupts. Corruption
happens on the device, in the objective.
"""
