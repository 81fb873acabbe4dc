"""Trainers: what recipes can train."""
