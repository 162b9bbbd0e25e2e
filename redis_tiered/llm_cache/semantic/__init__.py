"""The semantic part of the LLM cache: whether a stored answer fits a question in other words."""
