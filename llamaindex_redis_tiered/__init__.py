"""redis-tiered for LlamaIndex."""
