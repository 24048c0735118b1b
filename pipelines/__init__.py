"""Pipeline stages that map Arrow batches to Arrow batches: ingest, embed, fuse, assign, sequences.

A stage is a plain class that runs the same in process and on a Ray cluster; only `pipelines.compute` knows where it
runs. A fit (fusion, collaborative vectors) is a function of arrays that returns an artefact.
"""
