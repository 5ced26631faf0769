"""Losses as sums over tokens."""
