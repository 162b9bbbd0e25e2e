"""Names to values, through the three tiers."""
