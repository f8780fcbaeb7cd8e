"""Pictures and shape tools: what a model looks like, and what it costs."""
