"""SASRec, a sequence model over item embeddings: a baseline, and the source of collaborative vectors."""
