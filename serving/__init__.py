"""An index behind a page and a REST interface: what `search.py serve` starts (docs/serving.md)."""
