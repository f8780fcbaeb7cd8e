"""What `tools/scaling.py` writes: costs on paper, and speeds measured here."""
