"""Sizes of released models, plans at those sizes, and what PARO may gain there."""
