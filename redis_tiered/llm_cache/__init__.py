"""The LLM cache: exact answers to model requests, in three tiers."""
