"""Model families: their grids, their attention sites, loading, and replacing their attention."""
