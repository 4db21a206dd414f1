"""The onion around a sum: stages, aggregators, and the tree that adds."""

from fedloom.pipeline.chain import BoundPipeline, Pipeline, chain, mean_pipeline, total_pipeline
from fedloom.pipeline.clip import clip
from fedloom.pipeline.fixed_point import fixed_point
from fedloom.pipeline.mean import mean
from fedloom.pipeline.plain_sum import PlainSum, plain_sum
from fedloom.pipeline.rotate import rotate
from fedloom.pipeline.rounded import rounded
from fedloom.pipeline.tree_sum import TreeSum, tree_total

__all__ = [
    "BoundPipeline",
    "Pipeline",
    "PlainSum",
    "TreeSum",
    "chain",
    "clip",
    "fixed_point",
    "mean",
    "mean_pipeline",
    "plain_sum",
    "rotate",
    "rounded",
    "total_pipeline",
    "tree_total",
]
