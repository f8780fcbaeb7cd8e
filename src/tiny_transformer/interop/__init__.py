"""Other people's formats: a trained model leaves the house, one file a format."""
