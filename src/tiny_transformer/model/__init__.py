"""The model: token ids to logits to loss, one file a part."""
