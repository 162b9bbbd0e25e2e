"""The tiers: process memory, Redis, the durable store."""
