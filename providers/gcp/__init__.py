"""Google Compute Engine: one instance per pod VM."""
