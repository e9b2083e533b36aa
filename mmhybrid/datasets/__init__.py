"""Data of one's own: checks before training, loading, samplers, and drawn data (synthetic)."""
