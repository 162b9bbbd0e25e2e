"""Documents with vectors: durable in SQL, searched in Redis, rebuilt from one into the other."""
