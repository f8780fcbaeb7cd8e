"""Weights to numbers: how well a model predicts a text."""
