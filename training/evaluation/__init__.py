"""Evaluation: ranking metrics, baselines, paired comparison, reranking and exposure."""
