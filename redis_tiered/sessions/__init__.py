"""Conversations: a log that loses nothing, and a window of its newest messages."""
