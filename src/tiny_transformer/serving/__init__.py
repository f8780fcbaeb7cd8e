"""A model behind HTTP, as the official `openai` client speaks to it."""
