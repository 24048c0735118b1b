"""Ray Data jobs, Arrow batch in and Arrow batch out: ingest, embed, fuse, assign, sequences.

A stage is a plain class that runs the same on a bare Arrow table and on a cluster; `pipelines.compute` is the one
place that knows which. Fitting (fusion, collaborative vectors) is a function of arrays that returns an artefact.
"""
