"""Small helpers that know nothing of models.

Contents: `tree` (paths of parameters), `rng` (streams of keys), `readers` (records of files),
`files` (never seen half-written), `dates` (days and periods), `processes` (of a job),
`memory` (of devices), `malloc` (of the host), `console` (text on the first process).
"""
